"""Rotated activations: what they are, and that no precision breaks them."""

import pytest
import torch

from comfy_vq.kernels import Rotation, activations, rotate


@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_is_the_rotation_of_weights_over_the_root_of_the_block(block, dtype, tolerance):
    x = torch.randn(2, 5, 384, generator=torch.Generator().manual_seed(0)).to(dtype)
    rotation = Rotation(block, 7)
    expected = rotate(x.float(), rotation, 384) * block**-0.5
    found = activations.rotate_activations(x, rotation)
    assert found.dtype == dtype and found.shape == x.shape
    assert (found.float() - expected).norm() <= tolerance * expected.norm()


def test_products_with_rotated_weights_are_those_with_the_weights():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 256, generator=generator) for n in (3, 4))
    rotation = Rotation(128, 1)
    found = activations.rotate_activations(x, rotation) @ rotate(weight, rotation, 256).T * 128**0.5
    assert torch.allclose(found, x @ weight.T, atol=1e-4)


def test_nothing_grows_beyond_the_largest_activation():
    """Else float16 would overflow, which the dense product need not."""
    largest = torch.finfo(torch.float16).max
    signs = rotate(torch.eye(128), Rotation(128, 0), 128)[:, 0].sign()
    x = (signs * largest).to(torch.float16)[None]
    assert activations.rotate_activations(x, Rotation(128, 0)).abs().max() == largest
