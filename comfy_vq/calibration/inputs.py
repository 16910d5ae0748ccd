"""What a layer multiplies its weight with, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK = 128
"""Width of the blocks that very wide inputs are cut into: that of the rotation of weights."""
WIDEST = 4096
"""Inputs that are wider are cut."""


def width_of(inputs: int) -> int:
    """Width of the blocks whose moments are kept, of an input of ``inputs`` channels."""
    return inputs if inputs <= WIDEST or inputs % BLOCK else BLOCK


def is_convolution(layer: nn.Module) -> TypeGuard[nn.Conv1d | nn.Conv2d | nn.Conv3d]:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def rows_of(layer: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Inputs of a layer for each tap of its kernel, ``[n, in]``; of a linear layer there is one.

    Args:
        x: what the layer is called with, ``[..., in]``, or ``[batch, in, *size]`` of a convolution.
    """
    if not is_convolution(layer):
        yield x.reshape(-1, x.shape[-1])
        return
    if x.ndim == len(layer.kernel_size) + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    steps = tuple(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True))
    for tap in product(*(range(kernel) for kernel, _, _ in steps)):
        part = x
        for axis, (at, (kernel, stride, dilation)) in enumerate(zip(tap, steps, strict=True), 2):
            last = x.shape[axis] - dilation * (kernel - 1)
            part = part.narrow(axis, at * dilation, last)
            part = part[(slice(None),) * axis + (slice(None, None, stride),)]
        yield part.movedim(1, -1).reshape(-1, x.shape[1])


def products(layer: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """Sums of ``x x^T`` as ``Moments`` holds them, float32 on the device of x, and how many.

    Nothing is rounded below float32: a sum over a picture exceeds the range of half precision.
    """
    sums, count = [], 0
    for rows in rows_of(layer, x.detach()):
        width, count = width_of(rows.shape[1]), len(rows)
        blocks = rows.float().view(count, -1, width).transpose(0, 1)
        sums.append(torch.bmm(blocks.transpose(1, 2), blocks))
    return torch.cat(sums), count
