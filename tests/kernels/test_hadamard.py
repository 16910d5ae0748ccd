import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import Rotation


@pytest.mark.parametrize("block", [2, 64, 128])
def test_rotation_is_orthonormal_and_undone(block):
    x = torch.randn(5, 3 * block)
    turned = kernels.rotate(x, Rotation(block, 1), 3 * block)
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-5)
    assert torch.allclose(kernels.unrotate(turned, Rotation(block, 1), 3 * block), x, atol=1e-5)


def test_signs_never_change():
    assert kernels.sign_vector(0, 8).tolist() == SIGNS_OF_SEED_0
    assert torch.equal(kernels.sign_vector(0, 64)[:8], kernels.sign_vector(0, 8))
    assert not torch.equal(kernels.sign_vector(0, 64), kernels.sign_vector(1, 64))


def test_signs_repeat_for_every_tap():
    x = torch.randn(2, 2 * 64)
    whole = kernels.rotate(x, Rotation(64, 3), 64)
    assert torch.allclose(whole[:, 64:], kernels.rotate(x[:, 64:], Rotation(64, 3), 64))


def test_blocks_are_powers_of_two():
    with pytest.raises(ValueError, match="power of two"):
        kernels.rotate(torch.randn(1, 96), Rotation(96, 0), 96)


SIGNS_OF_SEED_0 = [1.0, -1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0]
