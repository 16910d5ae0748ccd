"""Bad input over HTTP: one readable error of the node, and the server goes on.

All bad files are in ``tests/checkpoint/test_bad_input.py``; here are some that a user may choose.
"""

import json

import pytest

from comfy_server import error_of
from comfy_vq import checkpoint
from host.families import random_vq_model


def prompt(vq_name: str, filename_prefix: str) -> dict:
    save = {"model": ["1", 0], "filename_prefix": filename_prefix, "embed_workflow": False}
    return {
        "1": {"class_type": "LoadVQCheckpoint", "inputs": {"vq_name": vq_name}},
        "2": {"class_type": "SaveVQCheckpoint", "inputs": save},
    }


@pytest.fixture(scope="module")
def good(server):
    path = server.models("vq") / "good.safetensors"
    checkpoint.save(path, random_vq_model("flux"))
    return path


def truncated(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def newer(content: bytes) -> bytes:
    return content.replace(b'"vq.version":"1.0"', b'"vq.version":"7.0"')


def with_nan(content: bytes) -> bytes:
    start = 8 + int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8:start])["vq.img_in.bias"]["data_offsets"]
    return content[: start + begin] + b"\xff" * (end - begin) + content[start + end :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "by the header: the file is cut short; copy or download the file again"),
        (newer, "vq.version: found 7.0, expected 1.x; update comfy-vq"),
        (with_nan, "tensor vq.img_in.bias: found NaN or Inf, expected finite values; copy"),
    ],
)
def test_a_bad_file_is_an_error_of_the_node(server, good, damage, message):
    bad = server.models("vq") / f"{damage.__name__}.safetensors"
    bad.write_bytes(damage(good.read_bytes()))
    error = error_of(server.wait(server.post_prompt(prompt(bad.name, f"{damage.__name__}/bad"))))
    assert error.startswith(f"LoadVQCheckpoint: {bad}: ")
    assert message in error and "\n" not in error.strip()
    assert not (server.output / damage.__name__).exists()
    server.run(prompt(good.name, f"{damage.__name__}/good"))
    saved = server.output / damage.__name__ / "good_00001_.safetensors"
    assert saved.read_bytes() == good.read_bytes()


@pytest.mark.parametrize("prefix", ["../bad", "sub/../../bad"])
def test_a_prefix_that_leads_outside_is_an_error_of_the_node(server, good, prefix):
    error = error_of(server.wait(server.post_prompt(prompt(good.name, prefix))))
    assert error.startswith(f"SaveVQCheckpoint: {server.output}: filename_prefix: found {prefix!r}")
    assert "expected a folder inside the output folder; choose a prefix" in error
    assert not list(server.base.glob("bad*"))
    server.run(prompt(good.name, "inside/good"))
    assert server.alive()
