"""Decoding on a CPU in plain PyTorch, in integers until the last step.

An entry is one 64-bit word of eight unsigned bytes, and a set whose M ranges sum to at most 255 lets
one addition of words sum all eight: as fast as a lookup gets without a compiler. The inverse
rotation is an integer matrix product, which is exact too. Slabs of rows are small enough for the
cache, and each is one thread's alone.
"""

import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import eager
from .hadamard import Rotation, hadamard_matrix, sign_vector
from .threads import map_slabs

_int_mm: Any = getattr(torch, "_int_mm", None)
"""int8 times int8 in int32. Torch's own, yet without a public name; other libraries call it, too."""

_SLAB = 1 << 18
"""Weights decoded at a time; 4 MB of workspace for each thread."""

_SHAPES = 64
"""Shapes of slabs for which a thread keeps its views of the workspace."""

_OFFSET = 128
_SIGNS = -0x7F7F7F7F7F7F7F80
"""The highest bit of each byte: flipped, it turns a sum into the signed byte sum - 128."""


def decode_additive(
    codes: Tensor,
    codebooks: Tensor,
    step: float,
    offset: int,
    scales: Tensor,
    rotation: Rotation | None,
    period: int,
    dtype: torch.dtype,
    out: Tensor | None = None,
) -> Tensor:
    """Weights from additive codes; arguments as in ``dispatch.decode_additive``."""
    table = _words(codebooks) if offset == _OFFSET else None
    if table is None:
        return eager.decode_additive(
            codes, codebooks, step, offset, scales, rotation, period, dtype, out
        )
    rows, groups, books = codes.shape
    width = groups * 8
    weight = _plain((rows, width), dtype) if out is None else out
    block = 0 if rotation is None else rotation.block
    factors = (scales.float() * (step if rotation is None else step * block**-0.5))[:, None]
    signs = None if rotation is None else _signs(rotation.seed, period, width)
    size = _slab_rows(rows, width)

    def slab(parts: tuple[Tensor, Tensor, Tensor]) -> None:
        own, factor, target = parts
        space = _views(len(target), groups, books, block)
        space.sum(own, table)
        exact = target if dtype == torch.float32 else space.exact
        if signs is None:
            exact.copy_(space.matrix)
        else:
            exact.copy_(space.unrotated()).mul_(signs)
        exact.mul_(factor)
        if exact is not target:
            target.copy_(exact)

    own = codes.reshape(-1).split(size * groups * books)
    _run(slab, list(zip(own, factors.split(size), weight.split(size), strict=True)))
    return weight


def decode_additive_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Sums of entries as signed bytes; arguments as in ``dispatch.decode_additive_int8``."""
    table = _words(codebooks) if offset == _OFFSET else None
    if table is None:
        return eager.decode_additive_int8(codes, codebooks, offset, out)
    rows, groups, books = codes.shape
    sums = _plain((rows, groups * 8), torch.int8) if out is None else out
    size = _slab_rows(rows, groups * 8)

    def slab(parts: tuple[Tensor, Tensor]) -> None:
        own, target = parts
        space = _views(len(target), groups, books, 0)
        space.sum(own, table)
        target.copy_(space.matrix)

    own = codes.reshape(-1).split(size * groups * books)
    _run(slab, list(zip(own, sums.split(size), strict=True)))
    return sums


def _plain(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that threads may write which know nothing of the caller's inference mode."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype)


def _slab_rows(rows: int, width: int) -> int:
    """Rows of a slab, so that slabs are about equal and keep every thread at work."""
    threads = torch.get_num_threads()
    count = -(-rows * width // _SLAB)
    if count > 1:
        count = -(-count // threads) * threads
    return max(1, -(-rows // max(1, count)))


def _run(slab: Callable[[Any], None], parts: list[Any]) -> None:
    """``slab`` for all parts, each thread its share; a single part is the caller's own."""
    if len(parts) == 1:
        slab(parts[0])
        return

    def each(share: list[Any]) -> None:
        for part in share:
            slab(part)

    threads = torch.get_num_threads()
    for _ in map_slabs(each, [parts[i::threads] for i in range(threads)], torch.device("cpu")):
        pass


class _Views:
    """A thread's workspace as slabs of one shape need it.

    Made once: between two operations a thread holds Python's lock, for which the others wait.
    """

    def __init__(self, rows: int, groups: int, books: int, block: int) -> None:
        count, shape = rows * groups, (rows, groups * 8)
        self.index = _buffer("index", torch.int32, count * books)
        self.bases = _bases(books, count)
        self.entries = _buffer("entries", torch.int64, count * books)
        self.books = self.entries.view(count, books).unbind(1)
        self.sums = self.entries if books == 1 else _buffer("sums", torch.int64, count)
        self.matrix = self.sums.view(torch.int8).view(shape)
        self.exact = _buffer("exact", torch.float32, count * 8).view(shape)
        self.block = block
        if block:
            self.blocks = self.matrix.view(-1, block)
            kind = torch.int32 if multiplies_bytes() else torch.float32
            self.product = _buffer("product", kind, count * 8).view(-1, block)
            self.product_matrix = self.product.view(shape)

    def sum(self, codes: Tensor, table: Tensor) -> None:
        """Sums of entries - 128 into ``matrix``."""
        self.index.copy_(codes).add_(self.bases)
        torch.index_select(table, 0, self.index, out=self.entries)
        if len(self.books) > 1:
            torch.add(self.books[0], self.books[1], out=self.sums)
            for book in self.books[2:]:
                self.sums.add_(book)
        self.sums.bitwise_xor_(_SIGNS)

    def unrotated(self) -> Tensor:
        """``matrix H``, which are integers."""
        if self.product.dtype == torch.int32:
            _int_mm(self.blocks, _hadamard_bytes(self.block), out=self.product)
        else:
            source = self.exact.view(self.blocks.shape).copy_(self.blocks)
            torch.mm(source, hadamard_matrix(self.block), out=self.product)
        return self.product_matrix


class _Workspace(threading.local):
    """Buffers of a thread, one for each use, that grow to the largest slab; and views of them."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.bases: dict[int, Tensor] = {}
        self.views: dict[tuple[int, int, int, int], _Views] = {}


_WORKSPACE = _Workspace()


def _buffer(use: str, dtype: torch.dtype, numel: int) -> Tensor:
    buffers = _WORKSPACE.buffers
    if use not in buffers or buffers[use].numel() < numel:
        buffers[use] = _plain((numel,), dtype)
        _WORKSPACE.views.clear()
    return buffers[use][:numel]


def _bases(books: int, groups: int) -> Tensor:
    """int32 ``[groups * books]``: where the codebook of each code begins in the table."""
    known = _WORKSPACE.bases.get(books)
    if known is None or len(known) < groups * books:
        known = (torch.arange(books, dtype=torch.int32) * 256).repeat(groups)
        _WORKSPACE.bases[books] = known
    return known[: groups * books]


def _views(rows: int, groups: int, books: int, block: int) -> _Views:
    key = (rows, groups, books, block)
    found = _WORKSPACE.views.get(key)
    if found is None:
        with torch.inference_mode(False):
            found = _Views(*key)
        if len(_WORKSPACE.views) >= _SHAPES:
            _WORKSPACE.views.clear()
        _WORKSPACE.views[key] = found
    return found


@lru_cache(maxsize=1)
def multiplies_bytes() -> bool:
    """Whether this CPU has instructions for int8 products, and torch an operation that is exact.

    The operation falls back to plain loops elsewhere, which are slower than float32 products.
    """
    if _int_mm is None or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    values = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8).view(-1, 128)
    try:
        found = _int_mm(values, _hadamard_bytes(128))
    except RuntimeError:
        return False
    return torch.equal(found.float(), values.float() @ hadamard_matrix(128))


@lru_cache(maxsize=16)
def _hadamard_bytes(order: int) -> Tensor:
    with torch.inference_mode(False):
        return hadamard_matrix(order).to(torch.int8)


@lru_cache(maxsize=256)
def _signs(seed: int, period: int, width: int) -> Tensor:
    with torch.inference_mode(False):
        return sign_vector(seed, period).repeat(width // period)


_TABLES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _words(codebooks: Tensor) -> Tensor | None:
    """int64 ``[M * 256]`` of entries as words, or None where sums of bytes would overflow."""
    if codebooks not in _TABLES:
        table = None
        if codebooks.shape[1:] == (256, 8) and int(codebooks.amax((1, 2)).sum()) <= 255:
            # A view needs an address that is a multiple of 8, which a file does not promise.
            table = codebooks.clone(memory_format=torch.contiguous_format)
            table = table.view(torch.int64).flatten()
        _TABLES[codebooks] = table
    return _TABLES[codebooks]
