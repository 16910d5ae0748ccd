"""The frozen interface: shared workflows store widget values by position, so only append to it."""

import json
from pathlib import Path

import pytest

from comfy_vq.nodes import NODES

GOLDEN = json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8"))


@pytest.fixture(params=sorted(GOLDEN))
def name(request):
    return request.param


@pytest.fixture
def info(name):
    node = next(node for node in NODES if node.GET_SCHEMA().node_id == name)
    return node.GET_NODE_INFO_V1()


def test_inputs_keep_their_order_and_type(name, info):
    given = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    order = [k for group in ("required", "optional") for k in info["input_order"].get(group, [])]
    frozen = GOLDEN[name]["inputs"]
    assert [[key, given[key][0]] for key in order][: len(frozen)] == frozen


def test_defaults_and_limits(name, info):
    for key, expected in GOLDEN[name].get("options", {}).items():
        options = {**info["input"]["required"], **info["input"].get("optional", {})}[key][1]
        assert {k: options[k] for k in expected} == expected


def test_outputs_keep_their_order_and_type(name, info):
    frozen = GOLDEN[name]["outputs"]
    given = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    assert given[: len(frozen)] == frozen


def test_category_and_display_name(name, info):
    assert (info["category"], info["display_name"]) == ("VQ", GOLDEN[name]["display_name"])


def test_every_node_has_help(name):
    page = Path(__file__).parents[3] / "web" / "docs" / f"{name}.md"
    assert GOLDEN[name]["display_name"] in page.read_text(encoding="utf-8").splitlines()[0]


def test_every_node_is_frozen():
    assert {node.GET_SCHEMA().node_id for node in NODES} == set(GOLDEN)
