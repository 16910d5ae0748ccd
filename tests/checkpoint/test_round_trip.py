"""What is saved is what is loaded, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.model import VQModel


@pytest.mark.parametrize(
    "layer", ["blocks.0.q", "blocks.0.k", "blocks.0.v", "blocks.0.conv", "blocks.0.own", "out"]
)
def test_coded_layers(model: VQModel, saved: Path, layer: str) -> None:
    before, after = model.layers[layer], checkpoint.load(saved).layers[layer]
    assert (after.spec, after.shape, after.dtype) == (before.spec, before.shape, before.dtype)
    assert after.tensors.keys() == before.tensors.keys()
    assert torch.equal(after.decode(), before.decode())


def test_dense_and_root_tensors(model: VQModel, saved: Path) -> None:
    loaded = checkpoint.load(saved)
    for before, after in (
        (model.dense, loaded.dense),
        (model.source.root, loaded.source.root),
    ):
        assert after.keys() == before.keys()
        for key, tensor in before.items():
            assert (after[key].dtype, after[key].shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(after[key].float(), tensor.float())


def test_sets_are_shared_again(saved: Path) -> None:
    loaded = checkpoint.load(saved)
    assert loaded.layers["blocks.0.q"].codebooks is loaded.layers["blocks.0.k"].codebooks
    sets = ["gaussian-K3-L10", "gaussian-M2", "gaussian-M3", "own.blocks.0"]
    assert sorted(loaded.codebook_sets()) == sets


def test_source_and_plan(model: VQModel, saved: Path) -> None:
    loaded = checkpoint.load(saved)
    for field in ("name", "sha256", "prefix", "metadata"):
        assert getattr(loaded.source, field) == getattr(model.source, field)
    assert loaded.plan == model.plan


def test_the_header_alone_counts_as_the_model_does(model: VQModel, saved: Path) -> None:
    header = checkpoint.inspect(saved)
    assert header.nbytes == model.nbytes
    assert header.numel == model.numel
    assert header.bits_per_weight == model.bits_per_weight
    assert {name: header.spec(name) for name in header.layers} == {
        name: weight.spec for name, weight in model.layers.items()
    }
    assert all(header.layer_nbytes(name) == w.nbytes for name, w in model.layers.items())


def test_same_bytes_again(model: VQModel, saved: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(saved)
    reordered = VQModel(
        dict(reversed(model.layers.items())),
        dict(reversed(model.dense.items())),
        model.source,
        model.plan,
    )
    for number, again in enumerate((loaded, reordered)):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save(path, again)
        assert path.read_bytes() == saved.read_bytes()


def test_decoded_as_the_source_was(model: VQModel, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "decoded.safetensors"
    checkpoint.write_decoded(path, checkpoint.load(saved))
    dense = checkpoint.open_dense(path)
    assert dense.source.prefix == model.source.prefix
    assert dense.source.root.keys() == model.source.root.keys()
    expected = model.decode()
    assert set(dense.keys()) == expected.keys()
    for key, tensor in expected.items():
        assert dense.dtype(key) == tensor.dtype
        assert torch.equal(dense.read(key).float(), tensor.float())
