"""Decoding in Triton, bit for bit what ``eager`` does. Imported only where Triton is installed.

A lane decodes half of a run: four of the eight weights of each of ``RUN`` consecutive groups. A run
is one rotation block, so the whole inverse rotation is additions between values that a lane holds,
but for the level between the halves of a group, which each lane computes from both. Codes, entries
and signs are read as the words that they lie in, in the order in which they are stored.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .hadamard import Rotation, sign_bytes

LANES = 128
"""Lanes of a program of ``additive``: as many threads, so that each stores what it decoded."""

INT8_BLOCK = 1024


@triton.jit
def _hadamard(x, SIZE: tl.constexpr):
    """The Hadamard transform across a tuple of SIZE tensors, a power of two up to 16."""
    for level in tl.static_range(4):
        if (1 << level) < SIZE:
            y = ()
            for n in tl.static_range(SIZE):
                if n & (1 << level):
                    y = y + (x[n ^ (1 << level)] - x[n],)
                else:
                    y = y + (x[n] + x[n ^ (1 << level)],)
            x = y
    return x


@triton.jit
def _cast(x, dtype: tl.constexpr):
    """float32 rounded to the nearest, ties to even. To bfloat16 in integers, because Triton's
    interpreter, in which this is tested, cuts the low bits off."""
    if dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


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
    ROTATED: tl.constexpr,
    LANES: tl.constexpr,
):
    """A run of ``RUN`` groups for every two lanes; see the head of this module."""
    lane = tl.arange(0, LANES)
    half = lane % 2
    run = tl.program_id(0) * (LANES // 2) + lane // 2
    here = run < runs
    row = run // runs_per_row

    # A run of one group may end within a word; longer ones are whole words.
    WORDS: tl.constexpr = RUN * M // 4 if RUN % 4 == 0 else RUN * M
    CODES: tl.constexpr = 4 if RUN % 4 == 0 else 1
    code_words = codes.to(tl.pointer_type(tl.int32)) if CODES == 4 else codes
    entries = codebooks.to(tl.pointer_type(tl.int64))
    words = ()
    for i in tl.static_range(WORDS):
        words = words + (tl.load(code_words + run * WORDS + i, mask=here, other=0).to(tl.int32),)

    x = ()
    for g in tl.static_range(RUN):
        # Sums of entries in fields of 16 bits, which do not overflow for M up to 6.
        even = tl.zeros([LANES], tl.int64)
        odd = tl.zeros([LANES], tl.int64)
        for m in tl.static_range(M):
            code = (words[(g * M + m) // CODES] >> (8 * ((g * M + m) % CODES))) & 0xFF
            entry = tl.load(entries + (m * 256 + code))
            even += entry & 0x00FF00FF00FF00FF
            odd += (entry >> 8) & 0x00FF00FF00FF00FF
        y = ()
        for i in tl.static_range(4):
            fields = odd if i % 2 else even
            low = ((fields >> (16 * (i // 2))) & 0xFFFF).to(tl.int32)
            high = ((fields >> (16 * (i // 2) + 32)) & 0xFFFF).to(tl.int32)
            if ROTATED:
                y = y + (low + (1 - 2 * half) * high,)
            else:
                y = y + (tl.where(half == 0, low, high),)
        if ROTATED:
            y = _hadamard(y, 4)
        x = x + (tl.join(tl.join(y[0], y[2]), tl.join(y[1], y[3])).reshape(LANES, 4),)
    if ROTATED:
        x = _hadamard(x, RUN)

    factor = tl.load(scales + row, mask=here, other=0.0).to(tl.float32) * norm
    sign_words = signs.to(tl.pointer_type(tl.int32)) + (run % runs_per_period) * (RUN // 4)
    word = tl.zeros([LANES], tl.int32)
    weight = half[:, None] * 4 + tl.arange(0, 4)[None, :]
    first = out + run[:, None].to(tl.int64) * (8 * RUN) + weight
    for g in tl.static_range(RUN):
        value = x[g]
        if ROTATED:
            if g == 0:
                # The transform of the constant offset: all of it in the first of the block.
                value -= tl.where(weight == 0, offset * (8 * RUN), 0)
            if g % 4 == 0:
                word = tl.load(sign_words + g // 4, mask=here, other=0)
            bits = value.to(tl.float32).to(tl.int32, bitcast=True)
            bits ^= (word[:, None] << (31 - 8 * (g % 4) - weight)) & -2147483648
            y = bits.to(tl.float32, bitcast=True)
        else:
            y = (value - offset).to(tl.float32)
        y = _cast(y * factor[:, None], out.dtype.element_ty)
        tl.store(first + 8 * g, y, mask=here[:, None])


@triton.jit(do_not_specialize=["width", "tiles"])
def int8(codes, scales, out, width, tiles, BLOCK: tl.constexpr):
    """``codes [rows, width] * (scales [rows] / 128)``, a tile of a row per program."""
    row = tl.program_id(0) // tiles
    column = (tl.program_id(0) % tiles) * BLOCK + tl.arange(0, BLOCK)
    here = column < width
    at = row.to(tl.int64) * width + column
    factor = tl.load(scales + row).to(tl.float32) * 0.0078125
    value = tl.load(codes + at, mask=here, other=0).to(tl.float32) * factor
    tl.store(out + at, _cast(value, out.dtype.element_ty), mask=here)


def run_length(groups: int, rotation: Rotation | None) -> int:
    """Groups that two lanes decode: a rotation block, or what makes whole words of codes."""
    if rotation is not None:
        return rotation.block // 8
    return 4 if groups % 4 == 0 else 1


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
    rows, groups, books = codes.shape
    weight = _room(rows, groups * 8, dtype, codes.device, out)
    run = run_length(groups, rotation)
    runs = rows * groups // run
    codes, codebooks = aligned(codes), aligned(codebooks)
    if rotation is None:
        norm, signs = step, codebooks  # which are not read as signs
    else:
        norm = step * rotation.block**-0.5
        signs = sign_bytes(rotation.seed, period, codes.device)
    with current(codes.device):
        additive[(-(-runs // (LANES // 2)),)](
            codes,
            codebooks,
            aligned(scales),
            signs,
            weight,
            norm,
            offset,
            runs,
            groups // run,
            period // (8 * run),
            M=books,
            RUN=run,
            ROTATED=rotation is not None,
            LANES=LANES,
            num_warps=warps(codes.device),
            num_stages=1,
        )
    return weight


def decode_int8(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Weights from int8 rows; arguments as in ``dispatch.decode_int8``."""
    rows, width = codes.shape
    weight = _room(rows, width, dtype, codes.device, out)
    tiles = -(-width // INT8_BLOCK)
    with current(codes.device):
        int8[(rows * tiles,)](
            aligned(codes), aligned(scales), weight, width, tiles, BLOCK=INT8_BLOCK, num_warps=4
        )
    return weight


def _room(
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
