"""Multiply with coded weights: decode into the scratch buffer, multiply, forget."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .codecs import VQWeight
from .codecs.weight import matrix_shape
from .kernels.scratch import LIMIT, scratch

Multiply = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A layer's function of input, dense weight and bias."""


def linear(input: Tensor, weight: VQWeight, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` with a coded weight, decoded to the dtype of the input.

    Args:
        input: float ``[..., in]``.
        weight: coded ``[out, in]`` on the device of the input.
        bias: ``[out]`` of the input's dtype, or None.
    """
    return _by_rows(F.linear, input, weight, bias, -1)


def convolution(
    function: Multiply, input: Tensor, weight: VQWeight, bias: Tensor | None, groups: int = 1
) -> Tensor:
    """A convolution with a coded weight, decoded to the dtype of the input.

    The weight is decoded in channels_last memory, which convolutions prefer on most devices; the
    output has the memory order of the input all the same.

    Args:
        function: convolves; knows stride, padding and dilation.
        input: float ``[batch, in, *size]``.
        weight: coded ``[out, in / groups, *kernel]`` on the device of the input.
        bias: ``[out]`` of the input's dtype, or None.
        groups: of the convolution; with more than one the weight is decoded as a whole.
    """
    output = _by_rows(function, input, weight, bias, 1 if groups == 1 else None)
    return output.contiguous() if input.is_contiguous() else output


def _by_rows(
    function: Multiply, input: Tensor, weight: VQWeight, bias: Tensor | None, dim: int | None
) -> Tensor:
    """``function`` with as many outputs at a time as fit; ``dim`` is theirs in its result."""
    dtype = input.dtype
    if torch.is_grad_enabled() and input.requires_grad:
        return function(input, weight.decode(dtype), bias)  # backward needs the weight again
    rows, columns = matrix_shape(weight.shape)
    parts = -(-rows * columns * dtype.itemsize // LIMIT)
    if parts == 1 or dim is None:
        return function(input, _passing(weight, input), bias)
    size, outputs = -(-rows // parts), []
    for start in range(0, rows, size):
        part = slice(start, min(start + size, rows))
        own = None if bias is None else bias[part]
        outputs.append(function(input, _passing(weight.rows(part), input), own))
    return torch.cat(outputs, dim)


def _passing(weight: VQWeight, like: Tensor) -> Tensor:
    """The dense weight in dtype and device of ``like``, until the next one is decoded."""
    if torch.compiler.is_compiling():
        return weight.decode(like.dtype)  # the compiler knows when it is needed no more
    room = scratch(*matrix_shape(weight.shape), like.dtype, like.device)
    return weight.decode(like.dtype, room)
