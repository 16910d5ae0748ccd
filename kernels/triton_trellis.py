"""Decoding trellis codes in Triton, bit for bit what ``eager`` does.

A program decodes a tile of runs, which are rotation blocks, or groups where nothing is rotated. A lane
reads the bytes of a group and the two that follow, in which all of its windows lie, and looks up eight
entries. The tile times a Hadamard matrix is a product of bytes in int32, for which cards have units.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .coded import Trellis
from .hadamard import hadamard_bytes, sign_bytes
from .triton_decode import aligned, current, room
from .triton_lanes import cast

TILE = 4096
"""Weights that a program decodes."""

WARPS = 4


@triton.jit
def entries(codes, table, group, groups_of_a_row, K: tl.constexpr, L: tl.constexpr):
    """The entries of all weights of groups ``[n]``: uint8 ``[n, 2, 2, 2]``."""
    last = (group + 1) % groups_of_a_row == 0
    following = tl.where(last, group + 1 - groups_of_a_row, group + 1)
    read = ()
    for i in tl.static_range(K):
        read = read + (tl.load(codes + group.to(tl.int64) * K + i).to(tl.int32),)
    for i in tl.static_range(2):
        read = read + (tl.load(codes + following.to(tl.int64) * K + i).to(tl.int32),)
    x = ()
    for i in tl.static_range(8):
        word = read[K * i // 8] | (read[K * i // 8 + 1] << 8) | (read[K * i // 8 + 2] << 16)
        x = x + (tl.load(table + ((word >> (K * i % 8)) & ((1 << L) - 1))),)
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    return tl.join(even, odd)


@triton.jit(do_not_specialize=["norm", "offset", "runs", "runs_per_row", "runs_per_period"])
def trellis(
    codes,  # uint8 [rows, runs_per_row * WIDTH * K / 8]
    table,  # uint8 [2^L]
    scales,  # [rows]
    signs,  # uint8 [runs_per_period * WIDTH / 8]: a bit per weight, set where it changes its sign
    hadamard,  # int8 [WIDTH, WIDTH]
    out,  # [runs, WIDTH]
    norm,
    offset,
    runs,
    runs_per_row,
    runs_per_period,
    K: tl.constexpr,
    L: tl.constexpr,
    WIDTH: tl.constexpr,
    ROTATED: tl.constexpr,
    RUNS: tl.constexpr,
):
    """``RUNS`` runs of ``WIDTH`` weights; the last program decodes the last run again where some lack."""
    GROUPS: tl.constexpr = WIDTH // 8
    lane = tl.arange(0, RUNS * GROUPS)
    own = tl.minimum(tl.program_id(0) * RUNS + lane // GROUPS, runs - 1) * GROUPS + lane % GROUPS
    entry = entries(codes, table, own, runs_per_row * GROUPS, K, L).reshape(RUNS, WIDTH)
    run = tl.minimum(tl.program_id(0) * RUNS + tl.arange(0, RUNS), runs - 1)
    weight = tl.arange(0, WIDTH)[None, :]
    row = run // runs_per_row

    if ROTATED:
        at = tl.arange(0, WIDTH)
        turn = tl.load(hadamard + at[:, None] * WIDTH + at[None, :])
        number = tl.dot((entry ^ 128).to(tl.int8, bitcast=True), turn, out_dtype=tl.int32)
        # the transform of a constant, what the offset is less than 128: all of it in the first
        number += tl.where(weight == 0, (128 - offset) * WIDTH, 0)
        place = (run % runs_per_period)[:, None] * WIDTH + weight
        flipped = (tl.load(signs + (place >> 3)).to(tl.int32) >> (place & 7)) & 1
        value = number.to(tl.float32) * (1 - 2 * flipped).to(tl.float32)
    else:
        value = (entry.to(tl.int32) - offset).to(tl.float32)
    value *= (tl.load(scales + row).to(tl.float32) * norm)[:, None]
    tl.store(out + run.to(tl.int64)[:, None] * WIDTH + weight, cast(value, out.dtype.element_ty))


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """See ``dispatch.decode_trellis``."""
    rows, groups, bits = weight.codes.shape
    device, width = weight.codes.device, weight.block or 8
    matrix = room(rows, groups * 8, dtype, device, out)
    runs = rows * groups * 8 // width
    codes, table = aligned(weight.codes), aligned(weight.codebooks)
    signs = turn = table  # which are not read where nothing is rotated
    if weight.rotation is not None:
        signs = sign_bytes(weight.rotation.seed, weight.period, device)
        turn = hadamard_bytes(width, device)
    with current(device):
        trellis[(triton.cdiv(runs, TILE // width),)](
            codes,
            table,
            aligned(weight.scales),
            signs,
            turn,
            matrix,
            weight.norm,
            weight.offset,
            runs,
            groups * 8 // width,
            max(1, weight.period // width),
            K=bits,
            L=weight.window,
            WIDTH=width,
            ROTATED=weight.rotation is not None,
            RUNS=TILE // width,
            num_warps=WARPS,
            num_stages=1,
        )
    return matrix
