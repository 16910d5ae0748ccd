"""VQ checkpoints that a reader refuses, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.errors import VQError

from .conftest import Damage


def refuses(path: Path, *words: str) -> None:
    """``load`` raises one VQError that names the file and ``words``."""
    with pytest.raises(VQError) as error:
        checkpoint.load(path)
    for word in (str(path), *words):
        assert word in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_truncated(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content))])
    refuses(saved, "expected")


def test_newer_minor_is_read(damage: Damage) -> None:
    damage.index["__metadata__"]["vq.version"] = "1.7"
    damage.index["__metadata__"]["vq.something"] = "new"
    assert checkpoint.inspect(damage.write()).version == "1.7"


@pytest.mark.parametrize(
    ("version", "advice"),
    [("2.0", "update comfy-vq"), ("0.9", "quantize again"), ("1", "major.minor"), ("1.x", "1.0")],
)
def test_other_versions(damage: Damage, version: str, advice: str) -> None:
    damage.index["__metadata__"]["vq.version"] = version
    refuses(damage.write(), "vq.version", version, advice)


def test_unknown_requirement(damage: Damage) -> None:
    damage.index["__metadata__"]["vq.requires"] = '["time-travel"]'
    refuses(damage.write(), "vq.requires", "time-travel", "update comfy-vq")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[],"a":[]'])
def test_malformed_requirements(damage: Damage, text: str) -> None:
    damage.index["__metadata__"]["vq.requires"] = text
    refuses(damage.write(), "vq.requires")


@pytest.mark.parametrize(
    "key", ["vq.requires", "vq.codecs", "vq.layers", "vq.plan", "vq.source", "vq.tool"]
)
def test_missing_field(damage: Damage, key: str) -> None:
    del damage.index["__metadata__"][key]
    refuses(damage.write(), key)


@pytest.mark.parametrize("key", ["vq.codecs", "vq.layers", "vq.plan", "vq.source"])
@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"a":1,"a":1}', '{"a":Infinity}'])
def test_malformed_field(damage: Damage, key: str, text: str) -> None:
    damage.index["__metadata__"][key] = text
    refuses(damage.write(), key)


def codec(**change: Any) -> Callable[[Any], None]:
    return lambda records: records["additive-1"].update(change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (codec(name="trellis"), ["unknown codec 'trellis'"]),
        (codec(version=2), ["version", "found 2", "update comfy-vq"]),
        (codec(version="1"), ["version"]),
        (codec(codebooks=9), ["codebooks", "found 9"]),
        (codec(axes="in,out"), ["axes"]),
        (codec(rotation={"block": 48, "seed": 0}), ["rotation.block"]),
        (codec(surprise=1), ["surprise"]),
        (lambda records: {**records, "additive-1": 5}, ["additive-1"]),
    ],
)
def test_codec_records(damage: Damage, change: Callable[[Any], Any], words: list[str]) -> None:
    refuses(damage.field("vq.codecs", change), "vq.codecs", *words)


def layer(position: int, value: Any) -> Callable[[Any], None]:
    def change(layers: Any) -> None:
        layers["blocks.0.q"][position] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (layer(0, "nobody-1"), ["codec id", "nobody-1"]),
        (layer(0, 3), ["codec id"]),
        (layer(0, "int8-1"), ["codes", "expected I8 [16, 64]"]),
        (layer(1, [16, 128]), ["vq.blocks.0.q.codes", "[16, 16, 3]"]),
        (layer(1, [16, 60]), ["shape", "[16, 60]"]),
        (layer(1, [16]), ["shape"]),
        (layer(1, [16, 0]), ["shape"]),
        (layer(1, [2**31, 2**31]), ["codes"]),
        (layer(1, "large"), ["shape"]),
        (layer(2, "U8"), ["dtype"]),
        (layer(2, ["F16"]), ["dtype"]),
        (layer(3, "missing"), ["missing"]),
        (layer(3, "gaussian-M2"), ["codebook set", "gaussian-M2"]),
        (layer(3, None), ["codebook set"]),
        (layer(3, 7), ["codebook set"]),
        (lambda layers: {**layers, "blocks.0.q": ["additive-1"]}, ["codec id"]),
        (lambda layers: {**layers, "ghost": layers["blocks.0.q"]}, ["layer ghost"]),
    ],
)
def test_layer_records(damage: Damage, change: Callable[[Any], Any], words: list[str]) -> None:
    refuses(damage.field("vq.layers", change), "layer", *words)


def test_tensor_of_another_dtype(damage: Damage) -> None:
    damage.index["vq.blocks.0.q.codes"]["dtype"] = "I8"
    refuses(damage.write(), "layer blocks.0.q", "found I8", "expected U8")


def test_missing_tensor(damage: Damage) -> None:
    damage.index["vq.blocks.0.k.codes"] = damage.index.pop("vq.blocks.0.q.codes")
    refuses(damage.write(), "blocks.0")


@pytest.mark.parametrize("name", ["vq.codebooks.own.blocks.0", "vq.codebooks.own.blocks.0.grid"])
def test_missing_set(damage: Damage, name: str) -> None:
    damage.index["vq.renamed"] = damage.index.pop(name)
    refuses(damage.write(), "layer blocks.0.own", "own.blocks.0", f"no tensor {name}")


@pytest.mark.parametrize("name", ["stray", "vq.codebooks.stray"])
def test_stray_tensor(damage: Damage, name: str) -> None:
    damage.index[name] = damage.index.pop("vq.scale")
    refuses(damage.write(), name)


def test_layer_both_coded_and_dense(damage: Damage) -> None:
    damage.index["vq.blocks.0.q.weight"] = damage.index.pop("vq.scale")
    refuses(damage.write(), "blocks.0.q.weight", "both")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scales_that_are_no_numbers(damage: Damage, value: float) -> None:
    path = damage.fill("vq.out.scales", torch.tensor([1.0, value]).half())
    checkpoint.inspect(path)
    refuses(path, "layer out", "vq.out.scales", "NaN or Inf")


@pytest.mark.parametrize(
    ("grid", "word"),
    [([0.0, 128.0], "step"), ([float("nan"), 128.0], "step"), ([-1.0, 128.0], "step"),
     ([1.0, 0.5], "offset"), ([1.0, 256.0], "offset"), ([1.0, float("inf")], "offset")],
)  # fmt: skip
def test_grids_that_are_none(damage: Damage, grid: list[float], word: str) -> None:
    refuses(damage.fill("vq.codebooks.gaussian-M2.grid", torch.tensor(grid)), "gaussian-M2", word)


def test_codebooks_whose_sums_are_no_bytes(damage: Damage) -> None:
    path = damage.fill("vq.codebooks.gaussian-M2", torch.tensor([255], dtype=torch.uint8))
    refuses(path, "vq.codebooks.gaussian-M2", "255")


def test_dense_checkpoint_given_to_load(tmp_path: Path) -> None:
    path = tmp_path / "dense.safetensors"
    save_file({"a.weight": torch.zeros(8, 8)}, path)
    assert not checkpoint.is_vq(path)
    refuses(path, "not a VQ checkpoint", "UNETLoader")


def test_is_vq(saved: Path, damage: Damage, tmp_path: Path) -> None:
    assert checkpoint.is_vq(saved)
    damage.index["__metadata__"]["vq.version"] = "2.0"
    assert checkpoint.is_vq(damage.write()), "a newer version is listed, so that its error is seen"
    for content in (b"", b"junk", b"\0" * 100, b"\xff" * 100, b'\x10\0\0\0\0\0\0\0{"vq":1}'):
        (tmp_path / "junk").write_bytes(content)
        assert not checkpoint.is_vq(tmp_path / "junk")
    index = {"__metadata__": {"workflow": json.dumps({"vq.version": "1.0"})}}
    text = json.dumps(index).encode()
    (tmp_path / "mention").write_bytes(len(text).to_bytes(8, "little") + text)
    assert not checkpoint.is_vq(tmp_path / "mention")
