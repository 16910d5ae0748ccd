"""Activations in the basis of rotated weights, for products that do not rotate the weight back."""

from functools import lru_cache

import torch
from torch import Tensor

from .hadamard import Rotation, hadamard_matrix, sign_vector


def rotate_activations(x: Tensor, rotation: Rotation) -> Tensor:
    """``x D H / block`` in the dtype of x, contiguous ``[..., width]``; see ``hadamard``.

    Divided by ``block``, not by its root, so that no element exceeds the largest of x, which in
    float16 could overflow otherwise. Whoever multiplies with the result owes it ``block**0.5``.

    Args:
        x: floating ``[..., width]``, the block dividing its width.
    """
    block, width = rotation.block, x.shape[-1]
    signed = x * _signs(rotation.seed, width, x.device, x.dtype)
    return (signed.view(-1, block) @ _hadamard(block, x.device, x.dtype)).view(x.shape)


@lru_cache(maxsize=256)
def _signs(seed: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return sign_vector(seed, width, device).to(dtype)


@lru_cache(maxsize=16)
def _hadamard(block: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Powers of two, which every floating dtype holds exactly."""
    return (hadamard_matrix(block, device) / block).to(dtype)
