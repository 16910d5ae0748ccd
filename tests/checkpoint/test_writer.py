"""What the writer puts into a file, and what it refuses to."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from comfy_vq import __version__, checkpoint, codecs
from comfy_vq.checkpoint.fields import FIELDS
from comfy_vq.checkpoint.header import read_header
from comfy_vq.checkpoint.writer import HEADER_GOAL
from comfy_vq.codecs import VQWeight
from comfy_vq.errors import VQError
from comfy_vq.model import Source, VQModel

from .conftest import own_set


def test_metadata(saved: Path) -> None:
    """The whole header, word by word: a change here changes the format."""
    with safe_open(saved, "pt") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert metadata.pop("modelspec.hash_sha256").startswith("0x")
    codec = {"name": "additive", "version": 1, "entries": 256, "group": 8, "axes": "out,kh,kw,in"}
    trellis = {"name": "trellis", "version": 1, "axes": "out,kh,kw,in"}
    assert json.loads(metadata.pop("vq.codecs")) == {
        "additive-1": {**codec, "codebooks": 2, "rotation": None},
        "additive-2": {**codec, "codebooks": 3, "rotation": {"block": 64, "seed": 0}},
        "additive-3": {**codec, "codebooks": 2, "rotation": {"block": 128, "seed": 0}},
        "int8-1": {"name": "int8", "version": 1},
        "trellis-1": {**trellis, "bits": 3, "window": 10, "rotation": {"block": 64, "seed": 0}},
    }
    assert metadata == {
        "format": "pt",
        "vq.version": "1.0",
        "vq.requires": "[]",
        "vq.layers": '{"blocks.0.conv":["additive-1",[8,16,3,3],"F32","gaussian-M2"],'
        '"blocks.0.k":["additive-2",[16,64],"F16","gaussian-M3"],'
        '"blocks.0.own":["additive-3",[16,128],"F32","own.blocks.0"],'
        '"blocks.0.q":["additive-2",[16,64],"BF16","gaussian-M3"],'
        '"blocks.0.v":["trellis-1",[16,64],"F16","gaussian-K3-L10"],'
        '"out":["int8-1",[4,20,3,3],"F32",null]}',
        "vq.plan": '{"family":"sd15","bits":3.0}',
        "vq.source": '{"name":"tiny.safetensors","sha256":"' + "00" * 32 + '",'
        '"prefix":"model.diffusion_model.","metadata":{"config":"{}"}}',
        "vq.tool": f"comfy-vq {__version__}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "comfy-vq",
        "modelspec.title": "tiny VQ20.85",
    }
    pieces = {
        f"vq.{layer}.{piece}"
        for layer in (*(f"blocks.0.{n}" for n in ("conv", "k", "own", "q", "v")), "out")
        for piece in ("codes", "scales")
    }
    sets = {
        f"vq.codebooks.{name}{suffix}"
        for name in ("gaussian-K3-L10", "gaussian-M2", "gaussian-M3", "own.blocks.0")
        for suffix in ("", ".grid")
    }
    dense = ("out.bias", "norm.weight", "norm.bias", "embedding.weight", "scale", "steps", "empty")
    root = {"vq.root.v_pred", "vq.root.edm_vpred.sigma_max"}
    assert names == pieces | sets | {f"vq.{key}" for key in dense} | root


def test_tensors_are_aligned(saved: Path) -> None:
    header = read_header(saved)
    assert header.data_start % 8 == 0
    assert all(e.begin % e.dtype.itemsize == 0 for e in header.entries.values())


def test_the_workflow_is_kept_as_it_is(model: VQModel, saved: Path) -> None:
    checkpoint.save(saved, model, extra={"prompt": '{"1": "ü"}', "workflow": "{}"})
    metadata = checkpoint.inspect(saved).metadata
    assert (metadata["prompt"], metadata["workflow"]) == ('{"1": "ü"}', "{}")


@pytest.mark.parametrize(
    ("prompt", "workflow", "left"),
    [(700_000, 400_000, {"workflow"}), (10, 1_100_000, set()), (100, 100, {"prompt", "workflow"})],
)
def test_a_header_that_would_be_too_long(
    model: VQModel,
    saved: Path,
    caplog: pytest.LogCaptureFixture,
    prompt: int,
    workflow: int,
    left: set[str],
) -> None:
    extra = {"prompt": "p" * prompt, "workflow": "w" * workflow}
    with caplog.at_level(logging.WARNING):
        checkpoint.save(saved, model, extra=extra)
    header = read_header(saved)
    assert header.metadata.keys() & extra.keys() == left
    assert header.data_start <= HEADER_GOAL
    for key in extra.keys() - left:
        assert f"left out {key}" in caplog.text


def test_the_sources_own_workflow_goes_first(model: VQModel, saved: Path) -> None:
    source = replace(model.source, metadata={"workflow": "s" * 600_000, "config": "{}"})
    extra = {"workflow": "w" * 600_000}
    checkpoint.save(saved, replace(model, source=source), extra=extra)
    header = checkpoint.inspect(saved)
    assert header.metadata["workflow"] == extra["workflow"]
    assert header.source.metadata == {"config": "{}"}


@pytest.mark.parametrize("key", ["format", "vq.version", "vq.new", "modelspec.title"])
def test_reserved_names(model: VQModel, tmp_path: Path, key: str) -> None:
    with pytest.raises(VQError, match=key):
        checkpoint.save(tmp_path / "a.safetensors", model, extra={key: "x"})


def test_fields_are_named_once() -> None:
    assert len({f.key for f in FIELDS}) == len({f.attribute for f in FIELDS}) == len(FIELDS)


def changed(weight: VQWeight, **pieces: torch.Tensor) -> VQWeight:
    return replace(weight, tensors={**weight.tensors, **pieces})


def test_refuses_what_a_reader_would(model: VQModel, tmp_path: Path) -> None:
    weight, own = model.layers["blocks.0.q"], own_set("gaussian-M3")
    nan = torch.full((16,), float("nan")).half()
    cases = {
        "NaN or Inf": VQModel({"a": changed(weight, scales=nan)}, {}),
        "expected U8": VQModel({"a": changed(weight, codes=weight.tensors["scales"])}, {}),
        "codebook set": VQModel({"a": replace(weight, codebooks=None)}, {}),
        "gaussian-M3.*differs": VQModel({"a": weight, "b": replace(weight, codebooks=own)}, {}),
        "two that would be stored so": VQModel({"a": weight}, {"a.codes": torch.zeros(1)}),
        "both": VQModel({"a": weight}, {"a.weight": torch.zeros(1)}),
        "codebooks.stray": VQModel({"a": weight}, {"codebooks.stray": torch.zeros(1)}),
        "root.stray": VQModel({"a": weight}, {"root.stray": torch.zeros(1)}),
    }
    for message, wrong in cases.items():
        path = tmp_path / "wrong.safetensors"
        with pytest.raises(VQError, match=message):
            checkpoint.save(path, wrong)
        assert not list(tmp_path.iterdir())


def sdxl_like() -> VQModel:
    """794 layers under names as long as SDXL's, and as many dense tensors as it has beside them."""
    weight = codecs.encode(torch.ones(8, 128), 3, effort="fast")
    name = "input_blocks.8.1.transformer_blocks.{}.attn1.to_out.0"
    layers = {name.format(number): weight for number in range(794)}
    dense = {f"{name.format(number)}.bias": torch.zeros(8).half() for number in range(886)}
    source = Source("sd_xl_base_1.0.safetensors", "0" * 64, "model.diffusion_model.")
    return VQModel(layers, dense, source, {"family": "sdxl"})


def test_sdxl_leaves_room_for_a_workflow(tmp_path: Path) -> None:
    path = tmp_path / "sdxl.safetensors"
    checkpoint.save(path, sdxl_like())
    header = read_header(path)
    assert header.data_start < 600 * 1024
    assert len(header.metadata["vq.layers"]) < 100 * 1024
