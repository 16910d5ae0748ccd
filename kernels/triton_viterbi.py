"""The search of ``viterbi`` in Triton: a program for each row, which holds the costs of all its states.

The costs of a step never leave the program; what it writes is which predecessor was the best. A second
kernel follows these from the end, a lane for each row.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_decode import aligned, current
from .viterbi import IMPOSSIBLE

RENEWED = 64
"""Steps after which the least cost is taken from all, so that sums of many steps stay exact."""
_IMPOSSIBLE = tl.constexpr(IMPOSSIBLE)

ROWS = 32
"""Of a program that follows paths."""


def warps_of(window: int) -> int:
    """Of a program that searches: 32 states to a thread."""
    return max(1, (1 << window) // 1024)


@triton.jit
def forward(
    weights,  # float32 [steps, rows]
    table,  # float32 [2^L]: by the bits that leave next, then those that came last, then the others
    begins,  # int32 [rows]
    closes,  # int32 [rows]
    back,  # uint8 [rows, steps, 2^(L-K)]: the bits that leave, by those that came, then the others
    ends,  # int32 [rows]: the last state but for the bits that leave
    steps,
    rows,
    K: tl.constexpr,
    L: tl.constexpr,
    BEGUN: tl.constexpr,
    CLOSED: tl.constexpr,
    RENEWED: tl.constexpr,
):
    """For every step and what stays of a state, which bits before it are the cheapest."""
    TURNS: tl.constexpr = 1 << K
    BRANCHES: tl.constexpr = 1 << (L - K)
    REST: tl.constexpr = BRANCHES // TURNS
    row = tl.program_id(0)
    left = tl.arange(0, TURNS)[:, None, None]
    came = tl.arange(0, TURNS)[None, :, None]
    rest = tl.arange(0, REST)[None, None, :]
    value = tl.load(table + (left * BRANCHES + came * REST + rest))
    branch = tl.arange(0, TURNS)[:, None] * REST + tl.arange(0, REST)[None, :]
    stays = tl.arange(0, REST)[None, :] * TURNS + tl.arange(0, TURNS)[:, None]
    to = back + row.to(tl.int64) * steps * BRANCHES

    # Costs by what a state shares with the one before it, with which they begin.
    before = tl.zeros([TURNS, 1, REST], tl.float32)
    if BEGUN:
        before = tl.where(left * REST + rest == tl.load(begins + row), before, _IMPOSSIBLE)
    best = tl.zeros([TURNS, REST], tl.float32)
    weight = tl.load(weights + row)
    for step in range(steps):
        following = tl.load(weights + tl.minimum(step + 1, steps - 1) * rows + row)
        off = value - weight
        costs = before + off * off
        # The bits that leave replace the lowest of a cost, and the minimum brings them along.
        marked = (costs.to(tl.int32, bitcast=True) & -TURNS) | left
        best = tl.min(marked.to(tl.float32, bitcast=True), 0)
        turn = best.to(tl.int32, bitcast=True) & (TURNS - 1)
        tl.store(to + step * BRANCHES + branch, turn.to(tl.uint8))
        if step % RENEWED == 0:
            best -= tl.min(tl.min(best, 1), 0)
        before = tl.trans(best).reshape(TURNS, REST)[:, None, :]
        weight = following
    if CLOSED:
        tl.store(ends + row, tl.load(closes + row))
    else:
        least = tl.min(tl.min(best, 1), 0)
        end = tl.where(best == least, stays, BRANCHES)
        tl.store(ends + row, tl.min(tl.min(end, 1), 0))


@triton.jit
def trace(back, ends, states, steps, rows, K: tl.constexpr, L: tl.constexpr, ROWS: tl.constexpr):
    """From the last state to the first: states int32 ``[steps, rows]``."""
    TURNS: tl.constexpr = 1 << K
    BRANCHES: tl.constexpr = 1 << (L - K)
    REST: tl.constexpr = BRANCHES // TURNS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < rows
    stays = tl.load(ends + row, mask=here, other=0)
    of_row = back + row.to(tl.int64) * steps * BRANCHES
    for n in range(steps):
        step = steps - 1 - n
        branch = stays % TURNS * REST + stays // TURNS
        turn = tl.load(of_row + step * BRANCHES + branch, mask=here, other=0)
        state = turn.to(tl.int32) * BRANCHES + stays
        tl.store(states + step * rows + row, state, mask=here)
        stays = state >> K


def best_path(
    weights: Tensor,
    table: Tensor,
    bits: int,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Tensor:
    """See ``dispatch.best_path``."""
    steps, rows = weights.shape
    turns, window, device = 1 << bits, len(table).bit_length() - 1, weights.device
    by_turns = table.view(turns, -1, turns).transpose(1, 2).contiguous()
    back = torch.empty((rows, steps, len(table) >> bits), dtype=torch.uint8, device=device)
    ends = torch.empty(rows, dtype=torch.int32, device=device)
    states = torch.empty((steps, rows), dtype=torch.int32, device=device)
    with current(device):
        forward[(rows,)](
            aligned(weights),
            by_turns,
            ends if start is None else aligned(start.int()),
            ends if end is None else aligned(end.int()),
            back,
            ends,
            steps,
            rows,
            K=bits,
            L=window,
            BEGUN=start is not None,
            CLOSED=end is not None,
            RENEWED=RENEWED,
            num_warps=warps_of(window),
            num_stages=1,
        )
        trace[(triton.cdiv(rows, ROWS),)](
            back, ends, states, steps, rows, K=bits, L=window, ROWS=ROWS, num_warps=1, num_stages=1
        )
    return states
