"""Decoding in plain PyTorch: the reference for every other kernel, and the path of cards without Triton."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .coded import Additive, OnGrid, Trellis
from .hadamard import unrotate_unnormalized
from .windows import windows

_SLICE = 1 << 20
"""Weights decoded at a time: the temporaries of a slice stay below 16 MiB."""


def decode_additive(weight: Additive, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_additive``."""
    codes, books = weight.codes, weight.codes.shape[-1]
    table = weight.codebooks.float()
    table[0] -= weight.offset
    table = table.reshape(-1, weight.codebooks.shape[-1])
    bases = torch.arange(books, device=codes.device, dtype=torch.int32) * 256

    def sums(part: slice) -> Tensor:
        entries = codes[part].reshape(-1, books).to(torch.int32).add_(bases)
        return F.embedding_bag(entries, table, mode="sum")

    return _decoded(weight, sums, dtype, out)


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_trellis``."""
    table = weight.codebooks.float().flatten() - weight.offset

    def entries(part: slice) -> Tensor:
        return table.index_select(0, windows(weight.codes[part], weight.window).flatten())

    return _decoded(weight, entries, dtype, out)


def _decoded(
    weight: OnGrid, numbers: Callable[[slice], Tensor], dtype: torch.dtype, out: Tensor | None
) -> Tensor:
    """The matrix, from a function that gives the numbers of some rows, less the offset, in float32.

    These are integers, and so is their unnormalized rotation, so every implementation that
    multiplies by the same row factor once at the end gives the same bits.
    """
    rows, width = weight.shape
    factors = weight.scales.float() * weight.norm
    matrix = _made(out, (rows, width), dtype, weight.codes.device)
    per_slice = max(1, _SLICE // max(1, width))
    for start in range(0, rows, per_slice):
        part = slice(start, min(start + per_slice, rows))
        values = numbers(part).view(-1, width)
        if weight.rotation is not None:
            values = unrotate_unnormalized(values, weight.rotation, weight.period)
        matrix[part] = values.mul_(factors[part, None])
    return matrix


def decode_additive_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Sums of entries as signed bytes; arguments as in ``dispatch.decode_additive_int8``."""
    rows, groups, books = codes.shape
    sums = _made(out, (rows, groups * 8), torch.int8, codes.device)
    per_slice = max(1, _SLICE // max(1, groups * 8))
    for start in range(0, rows, per_slice):
        part = slice(start, start + per_slice)
        total = codebooks[0][codes[part, :, 0].long()]
        for book in range(1, books):
            total += codebooks[book][codes[part, :, book].long()]
        sums[part] = (total - offset).view(torch.int8).flatten(1)
    return sums


def decode_trellis_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Entries as signed bytes; arguments as in ``dispatch.decode_trellis_int8``."""
    rows, groups, _ = codes.shape
    numbers = _made(out, (rows, groups * 8), torch.int8, codes.device)
    table, window = (codebooks.flatten() - offset).view(torch.int8), codebooks.shape[1]
    per_slice = max(1, _SLICE // max(1, groups * 8))
    for start in range(0, rows, per_slice):
        part = slice(start, start + per_slice)
        index = windows(codes[part], window.bit_length() - 1)
        numbers[part] = table.index_select(0, index.flatten()).view(index.shape).flatten(1)
    return numbers


def decode_int8(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Weights from int8 rows; arguments as in ``dispatch.decode_int8``."""
    weight = _made(out, codes.shape, dtype, codes.device)
    per_slice = max(1, _SLICE // max(1, codes.shape[1]))
    for start in range(0, codes.shape[0], per_slice):
        part = slice(start, start + per_slice)
        weight[part] = codes[part].float().mul_(scales[part].float()[:, None] / 128)
    return weight


def _made(
    out: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device) if out is None else out
