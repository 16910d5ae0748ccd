"""Decoding in Triton, bit for bit what ``eager`` does. Imported only where Triton is installed.

``triton_lanes`` says what a lane of a program does; here are the kernels and their launches.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .coded import Additive
from .hadamard import Rotation, sign_bytes
from .triton_lanes import added, cast, lookup, rotated, store_bytes, unrotated

LANES = 128
"""Lanes of a program: as many threads, so that each stores what it decoded."""

INT8_BLOCK = 1024


@triton.jit(
    do_not_specialize=["norm", "offset", "runs", "runs_per_row", "runs_per_period"],
)
def additive(
    codes,  # uint8 [runs, RUN, M]
    codebooks,  # uint8 [M, 256, 8]
    scales,  # [rows]
    signs,  # uint8 [runs_per_period, RUN]: a bit per weight, set where it changes its sign
    out,  # [runs, RUN, 8]
    norm,
    offset,
    runs,
    runs_per_row,
    runs_per_period,
    M: tl.constexpr,
    RUN: tl.constexpr,
    BYTES: tl.constexpr,
    LANES: tl.constexpr,
):
    """``RUN`` groups for every two lanes: a rotation block. Without a rotation, one for every lane."""
    program = tl.program_id(0)
    if RUN == 1:
        unrotated(
            codes, codebooks, scales, out, norm, offset, program, runs, runs_per_row, M, LANES
        )
    else:
        rotated(
            codes, codebooks, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, M, RUN, BYTES, LANES,
        )  # fmt: skip


@triton.jit(do_not_specialize=["shift", "groups"])
def additive_int8(
    codes,  # uint8 [groups, M]
    codebooks,  # uint8 [M, 256, 8]
    out,  # int8 [groups, 8]
    shift,
    groups,
    M: tl.constexpr,
    PAIRED: tl.constexpr,
    LANES: tl.constexpr,
):
    """Two adjacent groups for every lane, which are 16 bytes; PAIRED: their number is even."""
    group = 2 * (tl.program_id(0) * LANES + tl.arange(0, LANES))
    low = ()
    high = ()
    for i in tl.static_range(2):
        first = codes + tl.minimum(group + i, groups - 1).to(tl.int64) * M
        read = ()
        for m in tl.static_range(M):
            read = read + (tl.load(first + m),)
        a, b = lookup(codebooks, read, 0, M)
        low = low + (added(a, M),)
        high = high + (added(b, M),)
    store_bytes(out, group, groups, low, high, shift, PAIRED, LANES)


@triton.jit(do_not_specialize=["width", "tiles"])
def int8(codes, scales, out, width, tiles, BLOCK: tl.constexpr):
    """``codes [rows, width] * (scales [rows] / 128)``, a tile of a row per program."""
    row = tl.program_id(0) // tiles
    column = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    here = column < width
    at = row.to(tl.int64) * width + column
    factor = tl.load(scales + row).to(tl.float32) * 0.0078125
    value = tl.load(codes + at, mask=here, other=0).to(tl.float32) * factor
    tl.store(out + at, cast(value, out.dtype.element_ty), mask=here)


def run_length(rotation: Rotation | None) -> int:
    """Groups of a run: a rotation block, or one."""
    return 1 if rotation is None else rotation.block // 8


def programs(runs: int, run: int) -> int:
    """Programs that decode so many runs of ``run`` groups."""
    return triton.cdiv(runs, LANES if run == 1 else LANES // 2)


def decode_additive(
    weight: Additive,
    dtype: torch.dtype,
    out: Tensor | None = None,
    sums_are_bytes: bool = False,
) -> Tensor:
    """See ``dispatch.decode_additive``.

    ``sums_are_bytes``: the largest entries of the codebooks sum to at most 255, which is faster.
    """
    rows, groups, books = weight.codes.shape
    device = weight.codes.device
    matrix = room(rows, groups * 8, dtype, device, out)
    run = run_length(weight.rotation)
    runs = rows * groups // run
    codes, codebooks = aligned(weight.codes), aligned(weight.codebooks)
    if weight.rotation is None:
        signs = codebooks  # which are not read as signs
    else:
        signs = sign_bytes(weight.rotation.seed, weight.period, device)
    with current(device):
        additive[(programs(runs, run),)](
            codes,
            codebooks,
            aligned(weight.scales),
            signs,
            matrix,
            weight.norm,
            weight.offset,
            runs,
            groups // run,
            weight.period // (8 * run),
            M=books,
            RUN=run,
            BYTES=sums_are_bytes,
            LANES=LANES,
            num_warps=warps(device),
            num_stages=1,
        )
    return matrix


def decode_additive_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Sums as signed bytes; arguments as in ``dispatch.decode_additive_int8``."""
    rows, width, books = codes.shape
    sums = room_for_bytes(rows, width * 8, codes.device, out)
    groups = rows * width
    with current(codes.device):
        additive_int8[(triton.cdiv(groups, 2 * LANES),)](
            aligned(codes),
            aligned(codebooks),
            sums,
            shift_of_bytes(offset),
            groups,
            M=books,
            PAIRED=groups % 2 == 0,
            LANES=LANES,
            num_warps=warps(codes.device),
            num_stages=1,
        )
    return sums


def decode_int8(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Weights from int8 rows; arguments as in ``dispatch.decode_int8``."""
    rows, width = codes.shape
    weight = room(rows, width, dtype, codes.device, out)
    tiles = -(-width // INT8_BLOCK)
    with current(codes.device):
        int8[(rows * tiles,)](
            aligned(codes), aligned(scales), weight, width, tiles, BLOCK=INT8_BLOCK, num_warps=4
        )
    return weight


def room(
    rows: int, width: int, dtype: torch.dtype, device: torch.device, out: Tensor | None
) -> Tensor:
    """``out``, or a new matrix where it is None.

    Raises:
        ValueError: ``out`` is not a contiguous ``[rows, width]`` of ``dtype`` on ``device``.
    """
    if out is None:
        return torch.empty((rows, width), dtype=dtype, device=device)
    if (
        out.shape != (rows, width)
        or out.dtype != dtype
        or out.device != device
        or not out.is_contiguous()
    ):
        raise ValueError(
            f"out is {tuple(out.shape)} of {out.dtype} on {out.device}, and asked for is a "
            f"contiguous {(rows, width)} of {dtype} on {device}"
        )
    return out


def room_for_bytes(rows: int, width: int, device: torch.device, out: Tensor | None) -> Tensor:
    """As ``room``, for signed bytes that are stored as words."""
    numbers = room(rows, width, torch.int8, device, out)
    if numbers.data_ptr() % 4:
        raise ValueError("out begins at an address that is not a multiple of 4")
    return numbers


def shift_of_bytes(offset: int) -> int:
    """128 less the offset in every byte of a signed word of 32 bits."""
    shift = (128 - offset) * 0x01010101
    return (shift + (1 << 31)) % (1 << 32) - (1 << 31)


def aligned(x: Tensor) -> Tensor:
    """x, contiguous, from an address at which every word that the kernels read may begin."""
    x = x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


@lru_cache(maxsize=16)
def warps(device: torch.device) -> int:
    """Warps of ``LANES`` threads; any number where the kernels are interpreted."""
    if device.type != "cuda":
        return 4
    return LANES // torch.cuda.get_device_properties(device).warp_size


def current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be that of the tensors."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
