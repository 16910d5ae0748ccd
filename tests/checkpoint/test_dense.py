"""Dense checkpoints as sources."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfy_vq import checkpoint
from comfy_vq.errors import VQError

UNET = {f"input_blocks.{n}.0.weight": torch.full((8, 8), float(n)).half() for n in range(7)}


def write(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> Path:
    path = tmp_path / "dense.safetensors"
    save_file(tensors, path, metadata)
    return path


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in UNET.items()}


def test_bare_diffusion_model(tmp_path: Path) -> None:
    path = write(tmp_path, UNET, {"config": "x"})
    dense = checkpoint.open_dense(path)
    assert set(dense.keys()) == UNET.keys()
    assert (dense.source.name, dense.source.prefix) == ("dense.safetensors", "")
    assert dense.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dense.source.metadata == {"config": "x"}
    assert dense.source.root == {}


def test_full_checkpoint(tmp_path: Path) -> None:
    others = {
        "first_stage_model.decoder.conv_in.weight": torch.zeros(2, 2),
        "conditioner.embedders.0.transformer.w": torch.zeros(2),
        "cond_stage_model.model.w": torch.zeros(2),
        "model_ema.decay": torch.tensor(0.9),
        "betas": torch.zeros(1000),
    }
    root = {
        "v_pred": torch.tensor([]),
        "ztsnr": torch.tensor([]),
        "edm_mean": torch.ones(1, 4, 1, 1),
    }
    path = write(tmp_path, {**prefixed("model.diffusion_model."), **others, **root})
    dense = checkpoint.open_dense(path)
    assert set(dense.keys()) == UNET.keys()
    assert dense.source.prefix == "model.diffusion_model."
    assert dense.source.root.keys() == root.keys()
    assert torch.equal(dense.source.root["edm_mean"], root["edm_mean"])


@pytest.mark.parametrize("prefix", ["net.", "model.model.", "model."])
def test_other_prefixes_that_comfyui_knows(tmp_path: Path, prefix: str) -> None:
    dense = checkpoint.open_dense(write(tmp_path, prefixed(prefix)))
    assert set(dense.keys()) == UNET.keys()
    assert dense.source.prefix == prefix


def test_marks_of_a_bare_model_are_no_weights(tmp_path: Path) -> None:
    tokens = {"x_pad_token": torch.zeros(1, 8)}
    dense = checkpoint.open_dense(write(tmp_path, {**UNET, **tokens, "v_pred": torch.tensor([])}))
    assert set(dense.keys()) == UNET.keys() | tokens.keys()
    assert dense.source.root.keys() == {"v_pred"}


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2],
)
def test_reads_one_tensor_at_a_time(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "a.weight": torch.randn(3, 5).to(dtype),
        "b": torch.tensor(7),
        "c": torch.zeros(0, 2),
    }
    dense = checkpoint.open_dense(write(tmp_path, tensors))
    for key, tensor in tensors.items():
        read = dense.read(key)
        assert (dense.dtype(key), dense.shape(key)) == (tensor.dtype, tuple(tensor.shape))
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read.float(), tensor.float())


def test_what_can_be_coded(tmp_path: Path) -> None:
    shapes = {"a.weight": (8, 8), "b.weight": (8, 8, 3, 3), "b.bias": (8,), "norm.weight": (8,),
              "pos_embed": (8, 8), "video.weight": (8, 8, 1, 2, 2), "sound.weight": (8, 8, 3),
              "language_model.embed_tokens.weight": (8, 8), "ff_i.gate.weight": (8, 8)}  # fmt: skip
    dense = checkpoint.open_dense(write(tmp_path, {k: torch.zeros(s) for k, s in shapes.items()}))
    assert {key for key in shapes if dense.codable(key)} == {
        "a.weight",
        "b.weight",
        "video.weight",
        "sound.weight",
    }


def test_a_file_that_vanishes(tmp_path: Path) -> None:
    path = write(tmp_path, UNET)
    dense = checkpoint.open_dense(path)
    last = dense.keys()[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VQError, match="cut short"):
        dense.read(last)
    path.unlink()
    with pytest.raises(VQError, match="cannot be read"):
        dense.read(last)
    with pytest.raises(VQError, match="cannot be read"):
        _ = dense.source


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"a.comfy_quant": torch.zeros(4, dtype=torch.uint8)}, None),
        ({"a.weight_scale": torch.ones(())}, None),
        ({"a.scale_weight": torch.ones(())}, None),
        ({"scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)}, None),
        ({"a.weight": torch.zeros(8, 4, dtype=torch.uint8)}, None),
        ({}, {"_quantization_metadata": "{}"}),
    ],
)
def test_natively_quantized(
    tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    for start in ("", "model.diffusion_model."):
        named = {start + key: tensor for key, tensor in {**UNET, **tensors}.items()}
        with pytest.raises(VQError, match="load it in ComfyUI and use VQ Quantize Model"):
            checkpoint.open_dense(write(tmp_path, named, metadata))


def test_a_quantized_text_encoder_does_not_matter(tmp_path: Path) -> None:
    others = {"text_encoders.a.weight_scale": torch.ones(())}
    path = write(tmp_path, {**prefixed("model.diffusion_model."), **others})
    assert len(checkpoint.open_dense(path).keys()) == len(UNET)


def test_diffusers_unet_keeps_its_keys(tmp_path: Path) -> None:
    tensors = {"down_blocks.0.resnets.0.conv1.weight": torch.zeros(8, 8, 3, 3)}
    assert checkpoint.open_dense(write(tmp_path, tensors)).keys() == list(tensors)
