"""The share of a checkpoint that what quantizing costs is extrapolated from."""

import pytest
import torch

from benchmarks.sdxl_quantize import write_share
from comfy_vq import checkpoint
from comfy_vq.checkpoint import write_dense

SIZES = (8, 16, 24, 32)


@pytest.fixture
def source(tmp_path):
    tensors = {
        f"model.diffusion_model.blocks.{n}.weight": torch.randn(SIZES[n % 4], 64).half()
        for n in range(40)
    }
    tensors["model.diffusion_model.blocks.0.bias"] = torch.zeros(8).half()
    write_dense(tmp_path / "whole.safetensors", tensors)
    return tmp_path / "whole.safetensors"


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_each_kind_of_layer_has_its_share(source, tmp_path, share):
    factor = write_share(source, tmp_path / "part.safetensors", share)
    part, whole = (checkpoint.open_dense(path) for path in (tmp_path / "part.safetensors", source))
    assert len(part.keys()) == 40 * share
    assert {part.shape(key)[0] for key in part.keys()} == set(SIZES)  # noqa: SIM118
    assert factor == pytest.approx(1 / share)
    assert all(torch.equal(part.read(key), whole.read(key)) for key in part.keys())  # noqa: SIM118


def test_the_largest_layer_is_always_there(source, tmp_path):
    write_share(source, tmp_path / "part.safetensors", 0.001)
    part = checkpoint.open_dense(tmp_path / "part.safetensors")
    assert [part.shape(key) for key in part.keys()] == [(32, 64)]  # noqa: SIM118
