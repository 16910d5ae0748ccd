"""Decoding on a CPU in plain PyTorch: sums of entries by ``embedding_bag``, entries of a trellis two at
a time, the rotation in integers.

What limits the speed is memory, so slices are small enough for the cache and every buffer is kept.
The numbers are signed bytes. Their inverse rotation is a product of bytes in int32 where the CPU has
instructions for that, which makes it several times as fast as one of floats; elsewhere it is one of floats,
which are exact here, too.
"""

import threading
import time
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import eager
from .coded import Additive, OnGrid, Trellis
from .hadamard import hadamard_bytes, hadamard_matrix, sign_vector
from .windows import windows

_int_mm: Any = getattr(torch, "_int_mm", None)
"""int8 times int8 in int32. Torch's own, yet without a public name; other libraries call it, too."""

_SLICE = 1 << 19
"""Weights decoded at a time; 7 MB of workspace."""


def decode_additive(weight: Additive, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_additive``."""
    table, sums_are_bytes = _table(weight.codebooks, weight.offset)
    return _decoded(weight, lambda codes: _sums(codes, table), sums_are_bytes, dtype, out)


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_trellis``."""
    pairs = _pairs(weight.codebooks, weight.offset, weight.codes.shape[-1])
    if pairs is None:
        return eager.decode_trellis(weight, dtype, out)
    return _decoded(weight, lambda codes: _entries(codes, pairs), True, dtype, out)


def _decoded(
    weight: OnGrid,
    numbers: Callable[[Tensor], Tensor],
    are_bytes: bool,
    dtype: torch.dtype,
    out: Tensor | None,
) -> Tensor:
    """The matrix, from a function that gives the numbers of codes, less the offset.

    Args:
        are_bytes: whether all numbers are signed bytes, in whatever type.
    """
    rotation, block = weight.rotation, weight.block
    rows, width = weight.shape
    matrix = torch.empty((rows, width), dtype=dtype) if out is None else out
    factors = (weight.scales.float() * weight.norm)[:, None]
    signs = None if rotation is None else _signs(rotation.seed, weight.period, width)
    unrotated = _by_bytes if are_bytes and multiplies_bytes() else _by_floats
    size = max(1, _SLICE // max(1, width))
    for start in range(0, rows, size):
        target = matrix[start : start + size]
        exact = target if dtype == torch.float32 else _buffer("exact", torch.float32, target.shape)
        values = numbers(weight.codes[start : start + size])
        if signs is None:
            exact.copy_(values.view(target.shape))
        else:
            exact.copy_(unrotated(values, block).view(target.shape)).mul_(signs)
        exact.mul_(factors[start : start + size])
        if exact is not target:
            target.copy_(exact)
    return matrix


def decode_additive_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Sums of entries as signed bytes; arguments as in ``dispatch.decode_additive_int8``."""
    rows, groups, _ = codes.shape
    table, _ = _table(codebooks, offset)
    sums = torch.empty((rows, groups * 8), dtype=torch.int8) if out is None else out
    size = max(1, _SLICE // max(1, groups * 8))
    for start in range(0, rows, size):
        target = sums[start : start + size]
        target.copy_(_sums(codes[start : start + size], table).view(target.shape))
    return sums


def decode_trellis_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Entries as signed bytes; arguments as in ``dispatch.decode_trellis_int8``."""
    rows, groups, bits = codes.shape
    pairs = _pairs(codebooks, offset, bits)
    if pairs is None:
        return eager.decode_trellis_int8(codes, codebooks, offset, out)
    numbers = torch.empty((rows, groups * 8), dtype=torch.int8) if out is None else out
    size = max(1, _SLICE // max(1, groups * 8))
    for start in range(0, rows, size):
        target = numbers[start : start + size]
        target.copy_(_entries(codes[start : start + size], pairs).view(target.shape))
    return numbers


def _sums(codes: Tensor, table: Tensor) -> Tensor:
    """float32 ``[groups, 8]``: sums of entries less the offset."""
    books = codes.shape[-1]
    index = _buffer("index", torch.int32, (codes.numel(),))
    index.copy_(codes.reshape(-1)).add_(_repeated(books, len(index)))
    return F.embedding_bag(index, table, _bags(books, len(index)), mode="sum")


def _entries(codes: Tensor, pairs: Tensor) -> Tensor:
    """int8 ``[rows, width]``: entries less the offset."""
    index = windows(codes, (len(pairs) - 1).bit_length(), every=2)
    found = _buffer("pairs", torch.int16, (index.numel(),))
    torch.index_select(pairs, 0, index.flatten(), out=found)
    return found.view(torch.int8)


def _by_bytes(numbers: Tensor, block: int) -> Tensor:
    """int32 ``[blocks, block]``: ``numbers H``, of signed bytes in any type."""
    values = _as(torch.int8, numbers.view(-1, block))
    return _int_mm(values, hadamard_bytes(block), out=_buffer("product", torch.int32, values.shape))


def _by_floats(numbers: Tensor, block: int) -> Tensor:
    """The same in float32, of integers in any type."""
    values = _as(torch.float32, numbers.view(-1, block))
    product = _buffer("float product", torch.float32, values.shape)
    return torch.mm(values, hadamard_matrix(block), out=product)


def _as(dtype: torch.dtype, numbers: Tensor) -> Tensor:
    """The numbers themselves, or a copy in a buffer."""
    if numbers.dtype == dtype:
        return numbers
    return _buffer(f"numbers {dtype}", dtype, numbers.shape).copy_(numbers)


@lru_cache(maxsize=1)
def multiplies_bytes() -> bool:
    """Whether torch has an exact product of bytes that is faster on this CPU than one of floats.

    Without instructions for it (VNNI), which torch does not tell, it is many times slower: so both are
    tried. Which one is taken changes no bit of a result.
    """
    if _int_mm is None:
        return False
    values = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8).view(-1, 128).repeat(64, 1)
    floats = values.float()
    try:
        found = _int_mm(values, hadamard_bytes(128))
    except RuntimeError:
        return False
    if not torch.equal(found.float(), floats @ hadamard_matrix(128)):
        return False
    by_bytes = _seconds(lambda: _int_mm(values, hadamard_bytes(128)))
    return by_bytes < _seconds(lambda: floats @ hadamard_matrix(128))


def _seconds(product: Callable[[], Tensor]) -> float:
    """The shortest of a few times that it took."""
    found = []
    for _ in range(5):
        started = time.perf_counter()
        product()
        found.append(time.perf_counter() - started)
    return min(found)


class _Workspace(threading.local):
    """Buffers of a thread, one for each use, that grow to the largest slice."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}


_WORKSPACE = _Workspace()


def _buffer(use: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    numel, buffers = 1, _WORKSPACE.buffers
    for size in shape:
        numel *= size
    if use not in buffers or buffers[use].numel() < numel:
        with torch.inference_mode(False):  # it is used in and out of that mode
            buffers[use] = torch.empty(numel, dtype=dtype)
    return buffers[use][:numel].view(shape)


@lru_cache(maxsize=16)
def _pattern(books: int, size: int) -> tuple[Tensor, Tensor]:
    """int32 for each code where its codebook begins in the table; and for each group its first code."""
    with torch.inference_mode(False):
        starts = torch.arange(books, dtype=torch.int32) * 256
        return starts.repeat(size), torch.arange(0, size * books, books, dtype=torch.int32)


def _repeated(books: int, codes: int) -> Tensor:
    return _pattern(books, _whole(codes // books))[0][:codes]


def _bags(books: int, codes: int) -> Tensor:
    return _pattern(books, _whole(codes // books))[1][: codes // books]


def _whole(groups: int) -> int:
    """At least ``groups``, and one of few numbers."""
    return 1 << max(_SLICE.bit_length() - 4, (groups - 1).bit_length())


@lru_cache(maxsize=256)
def _signs(seed: int, period: int, width: int) -> Tensor:
    with torch.inference_mode(False):
        return sign_vector(seed, period).repeat(width // period)


_TABLES: MutableMapping[Tensor, dict[int, tuple[Tensor, bool]]] = WeakTensorKeyDictionary()


def _table(codebooks: Tensor, offset: int) -> tuple[Tensor, bool]:
    """float32 ``[M * 256, 8]``, the first codebook less the offset; whether all sums are signed bytes."""
    known = _TABLES.setdefault(codebooks, {})
    if offset not in known:
        with torch.inference_mode(False):
            values = codebooks.float()
            values[0] -= offset
            least, most = (float(v.sum()) for v in (values.amin((1, 2)), values.amax((1, 2))))
            known[offset] = values.reshape(-1, codebooks.shape[-1]), -128 <= least <= most <= 127
    return known[offset]


_PAIRS: MutableMapping[Tensor, dict[tuple[int, int], Tensor | None]] = WeakTensorKeyDictionary()


def _pairs(codebooks: Tensor, offset: int, bits: int) -> Tensor | None:
    """The entries of two successive weights, less the offset: int16 ``[2^(L + bits)]``, two bytes each.

    The windows of both are one of L + bits bits. None where entries less the offset are no bytes.
    """
    known = _PAIRS.setdefault(codebooks, {})
    if (offset, bits) not in known:
        with torch.inference_mode(False):
            values = codebooks.flatten().int() - offset
            fit = -128 <= int(values.min()) <= int(values.max()) <= 127
            both = torch.arange(len(values) << bits)
            entries = values.to(torch.int8)[torch.stack((both % len(values), both >> bits), 1)]
            known[offset, bits] = entries.view(torch.int16).flatten() if fit else None
    return known[offset, bits]
