"""Every feature of the compatibility table works with a VQ model, or is refused, as the table says."""

import re
from pathlib import Path

import pytest

from comfy_server import CHECKOUT
from comfy_vq.hosts.locate import comfyui_version
from host.features import SECTIONS
from host.features.feature import Feature, check
from host.features.graph import stock_nodes

ROWS = [row for rows in SECTIONS.values() for row in rows]
RUN = [row for row in ROWS if isinstance(row, Feature)]
OURS = {"VQQuantizeModel", "SaveVQCheckpoint", "LoadVQCheckpoint"}
PAGE = CHECKOUT / "docs" / "compatibility.md"


@pytest.mark.parametrize(
    "feature",
    [pytest.param(f, id=f.name, marks=[pytest.mark.slow] if f.slow else []) for f in RUN],
)
def test_feature(feature):
    found = check(feature)
    if found.status == "absent":
        pytest.skip(found.detail)
    assert found.status == ("refused" if feature.refused else "works"), found


def test_every_stock_node_that_takes_a_model_has_a_row():
    listed = {node for row in ROWS for node in row.nodes}
    assert takes_model() - listed == set()


def test_the_page_names_no_node_that_the_newest_host_has_not(comfyui):
    if documented_version() != comfyui_version(comfyui):
        pytest.skip("the page was made with another ComfyUI")
    listed = {node for row in ROWS for node in row.nodes}
    assert listed - set(stock_nodes()) <= OURS


def test_the_page_has_every_row_with_its_outcome():
    written = dict(
        re.findall(r"^\| ([^|]+?) +\|.*?\| (works|refused|untested)\b", page(), re.MULTILINE)
    )
    expected = {
        row.name: "untested"
        if not isinstance(row, Feature)
        else "refused"
        if row.refused
        else "works"
        for row in ROWS
    }
    assert {name: written.get(name) for name in expected} == expected


def takes_model() -> set[str]:
    found = set()
    for name, cls in stock_nodes().items():
        inputs = cls.INPUT_TYPES()
        kinds = [
            kind
            for group in ("required", "optional")
            for kind, *_ in inputs.get(group, {}).values()
            if isinstance(kind, str)
        ]
        if any("MODEL" in kind.split(",") for kind in kinds):
            found.add(name)
    return found


def page() -> str:
    return Path(PAGE).read_text(encoding="utf-8")


def documented_version() -> str | None:
    found = re.search(r"ComfyUI (\d+\.\d+\.\d+)", page())
    return found and found.group(1)
