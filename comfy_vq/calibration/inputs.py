"""What a layer multiplies its weight with, as rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK = 128
"""Width of the blocks that very wide inputs are cut into: that of the rotation of weights."""
WIDEST = 4096
"""Inputs that are wider are cut."""


def width_of(inputs: int) -> int:
    """Width of the blocks whose moments are kept, of an input of ``inputs`` channels."""
    return inputs if inputs <= WIDEST or inputs % BLOCK else BLOCK


def is_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def rows_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of a layer, ``[n, in]``.

    Those of a convolution are its pixels, whichever tap they meet: a block for each tap gained next
    to nothing, and costs as many times the memory and time as there are taps.

    Args:
        x: what the layer is called with, ``[..., in]``, or ``[batch, in, *size]`` of a convolution.
    """
    if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        x = x.movedim(-1 - len(layer.kernel_size), -1)
    return x.reshape(-1, x.shape[-1])


def products(layer: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Sums of ``x x^T`` as ``Moments`` holds them, float32 on the device of x, and how many.

    Nothing is rounded below float32: a sum over a picture exceeds the range of half precision.
    """
    rows = rows_of(layer, x.detach())
    blocks = rows.float().view(len(rows), -1, width_of(rows.shape[1])).transpose(0, 1)
    return torch.bmm(blocks.transpose(1, 2), blocks), len(rows)
