"""Decoding trellis codes in Triton, bit for bit what ``eager`` does.

Lanes share rotation blocks as those of ``triton_lanes`` do, but a look-up for each weight is too many
to be done twice: each of two lanes looks up every other group, and they exchange sums.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .coded import Trellis
from .hadamard import sign_bytes
from .triton_decode import (
    LANES,
    aligned,
    current,
    programs,
    room,
    room_for_bytes,
    run_length,
    shift_of_bytes,
    warps,
)
from .triton_lanes import (
    block_of_two_lanes,
    fields,
    in_order,
    joined,
    store8,
    store_bytes,
    turned_back,
)


@triton.jit
def entry(table, read, start: tl.constexpr, L: tl.constexpr):
    """The entry that the window from bit ``start`` on names, of a row read as a tuple of words."""
    window = read[start // 32] >> (start % 32)
    if start % 32 + L > 32:
        window |= read[start // 32 + 1] << (32 - start % 32)
    return tl.load(table + (window & ((1 << L) - 1)).to(tl.int32, bitcast=True)).to(tl.int32)


@triton.jit
def entries(table, read, first: tl.constexpr, K: tl.constexpr, L: tl.constexpr):
    """Entries of a group that begins at bit ``first``, as bytes of two words: weights 0-3 and 4-7."""
    low = entry(table, read, first, L)
    high = entry(table, read, first + 4 * K, L)
    for i in tl.static_range(1, 4):
        low |= entry(table, read, first + i * K, L) << (8 * i)
        high |= entry(table, read, first + (4 + i) * K, L) << (8 * i)
    return low, high


@triton.jit
def group_words(codes, table, group, groups_of_a_row, K: tl.constexpr, L: tl.constexpr):
    """The entries of groups that are read byte by byte, as those of ``entries``."""
    last = (group + 1) % groups_of_a_row == 0
    following = tl.where(last, group + 1 - groups_of_a_row, group + 1)
    low = tl.zeros(group.shape, tl.uint32)
    high = tl.zeros(group.shape, tl.uint32)
    for i in tl.static_range(K + 2):
        if i < K:
            byte = tl.load(codes + group.to(tl.int64) * K + i).to(tl.uint32)
        else:
            byte = tl.load(codes + following.to(tl.int64) * K + (i - K)).to(tl.uint32)
        if i < 4:
            low |= byte << (8 * i)
        else:
            high |= byte << (8 * (i - 4))
    return entries(table, (low, high), 0, K, L)


@triton.jit
def unrotated(codes, table, scales, out, norm, offset, program, runs, runs_per_row,
              K: tl.constexpr, L: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """A group of eight weights for every lane."""
    run = tl.minimum(program * LANES + tl.arange(0, LANES), runs - 1)
    low, high = group_words(codes, table, run, runs_per_row, K, L)
    x = fields((low,), 1, True) + fields((high,), 1, True)
    factor = tl.load(scales + run // runs_per_row).to(tl.float32) * norm
    words = joined(x, 0)
    y = (in_order(words & 0xFFFF, words >> 16, LANES) - offset).to(tl.float32)
    store8(out + run.to(tl.int64) * 8, y * factor[:, None], LANES)


@triton.jit
def split_words(x, LANES: tl.constexpr, COUNT: tl.constexpr):
    """The columns of ``x [LANES, COUNT]``, of which there are 2 or 4."""
    if COUNT == 2:
        a, b = tl.split(x)
        return (a, b)
    else:
        even, odd = tl.split(x.reshape(LANES, 2, 2))
        a, c = tl.split(even)
        b, d = tl.split(odd)
        return (a, b, c, d)


@triton.jit
def own_stream(read, half, BITS: tl.constexpr, COUNT: tl.constexpr):
    """Words that begin BITS bits later in every second lane: COUNT of them, of a tuple of one more."""
    moved = ()
    for n in tl.static_range(COUNT + 1):
        if BITS >= 32 and n < COUNT:
            moved = moved + (tl.where(half == 1, read[n + 1], read[n]),)
        else:
            moved = moved + (read[n],)
    if BITS % 32 == 0:
        return moved
    words = ()
    for n in tl.static_range(COUNT):
        both = (moved[n + 1].to(tl.uint64) << 32) | moved[n].to(tl.uint64)
        words = words + ((both >> ((BITS % 32) * half).to(tl.uint64)).to(tl.uint32),)
    return words + (moved[COUNT] >> ((BITS % 32) * half).to(tl.uint32),)


@triton.jit
def rotated(codes, table, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, K: tl.constexpr, L: tl.constexpr, RUN: tl.constexpr,
            LANES: tl.constexpr):  # fmt: skip
    """Every other group of a rotation block of RUN groups for every lane."""
    run, half, row = block_of_two_lanes(program, runs, runs_per_row, LANES)
    EACH: tl.constexpr = RUN // 4
    words = codes.to(tl.pointer_type(tl.uint32), bitcast=True)
    at = words + run.to(tl.int64) * (EACH * K)
    read = ()
    for i in tl.static_range(K):
        loaded = tl.load(at[:, None] + (EACH * i + tl.arange(0, EACH))[None, :])
        read = read + split_words(loaded, LANES, EACH)
    # A block's last windows reach into the following one, at the end of a row into its first.
    begun = row.to(tl.int32, bitcast=True) * runs_per_row
    following = tl.where(run + 1 == begun + runs_per_row, begun, run + 1)
    read = read + (tl.load(words + following.to(tl.int64) * (EACH * K)),)
    read = own_stream(read, half, 8 * K, EACH * K)

    x = ()
    for j in tl.static_range(RUN // 2):
        low, high = entries(table, read, 16 * K * j, K, L)
        own = fields((low,), 1, True) + fields((high,), 1, True)
        for i in tl.static_range(4):
            both = tl.sum(own[i].reshape(LANES // 2, 2), 1, keep_dims=True)
            both = both.broadcast_to(LANES // 2, 2).reshape(LANES)
            x = x + (both - 2 * half * own[i],)
    turned_back(
        x, scales, signs, out, norm, offset, run, half, row, runs_per_period, RUN, 4 * RUN, 0, LANES
    )


@triton.jit(do_not_specialize=["norm", "offset", "runs", "runs_per_row", "runs_per_period"])
def trellis(
    codes,  # uint8 [runs, RUN, K]
    table,  # uint8 [2^L]
    scales,  # [rows]
    signs,  # uint8 [runs_per_period, RUN]: a bit per weight, set where it changes its sign
    out,  # [runs, RUN, 8]
    norm,
    offset,
    runs,
    runs_per_row,
    runs_per_period,
    K: tl.constexpr,
    L: tl.constexpr,
    RUN: tl.constexpr,
    LANES: tl.constexpr,
):
    """``RUN`` groups for every two lanes: a rotation block. Without a rotation, one for every lane."""
    program = tl.program_id(0)
    if RUN == 1:
        unrotated(codes, table, scales, out, norm, offset, program, runs, runs_per_row, K, L, LANES)
    else:
        rotated(
            codes, table, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, K, L, RUN, LANES,
        )  # fmt: skip


@triton.jit(do_not_specialize=["shift", "groups", "groups_of_a_row"])
def trellis_int8(
    codes,  # uint8 [groups, K]
    table,  # uint8 [2^L]
    out,  # int8 [groups, 8]
    shift,
    groups,
    groups_of_a_row,
    K: tl.constexpr,
    L: tl.constexpr,
    PAIRED: tl.constexpr,
    LANES: tl.constexpr,
):
    """Two adjacent groups for every lane; ``shift`` and PAIRED as for ``additive_int8``."""
    group = 2 * (tl.program_id(0) * LANES + tl.arange(0, LANES))
    low = ()
    high = ()
    for i in tl.static_range(2):
        own = tl.minimum(group + i, groups - 1)
        a, b = group_words(codes, table, own, groups_of_a_row, K, L)
        low = low + (a,)
        high = high + (b,)
    store_bytes(out, group, groups, low, high, shift, PAIRED, LANES)


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_trellis``."""
    rows, groups, bits = weight.codes.shape
    device, run = weight.codes.device, run_length(weight.rotation)
    matrix = room(rows, groups * 8, dtype, device, out)
    runs = rows * groups // run
    codes, table = aligned(weight.codes), aligned(weight.codebooks)
    signs = table  # which is not read as signs where nothing is rotated
    if weight.rotation is not None:
        signs = sign_bytes(weight.rotation.seed, weight.period, device)
    with current(device):
        trellis[(programs(runs, run),)](
            codes,
            table,
            aligned(weight.scales),
            signs,
            matrix,
            weight.norm,
            weight.offset,
            runs,
            groups // run,
            max(1, weight.period // (8 * run)),
            K=bits,
            L=weight.window,
            RUN=run,
            LANES=LANES,
            num_warps=warps(device),
            num_stages=1,
        )
    return matrix


def decode_trellis_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """Entries as signed bytes; arguments as in ``dispatch.decode_trellis_int8``."""
    rows, groups, bits = codes.shape
    numbers = room_for_bytes(rows, groups * 8, codes.device, out)
    with current(codes.device):
        trellis_int8[(triton.cdiv(rows * groups, 2 * LANES),)](
            aligned(codes),
            aligned(codebooks),
            numbers,
            shift_of_bytes(offset),
            rows * groups,
            groups,
            K=bits,
            L=codebooks.shape[1].bit_length() - 1,
            PAIRED=rows * groups % 2 == 0,
            LANES=LANES,
            num_warps=warps(codes.device),
            num_stages=1,
        )
    return numbers
