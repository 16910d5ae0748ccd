"""Viterbi search for trellis codes: the path through a shift register that lies nearest to a row.

A state is a window of ``L`` bits of the row's stream, and stands for the entry of a table. From one
weight to the next the window moves by ``k`` bits, so that each state has ``2^k`` predecessors
(trellis-coded quantization, Marcellin and Fischer 1990; with a bit shift for a trellis QTIP, arXiv
2406.11235, section 3). The stream closes to a ring: the window of the last weights goes on at the
row's beginning, and nothing but ``k`` bits per weight is stored.

The search runs from the last weight to the first. Predecessors in it are successors in the row,
which differ in the high bits of the state, so that the minimum over them is one over whole slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 8
"""Weights whose bits fill whole bytes."""

_AROUND = 64
"""Weights on either side of a row's end from which the states there are found."""
_IMPOSSIBLE = 1e30
"""Cost of a state that is excluded; infinity would turn into NaN, since costs carry an index."""
_CPU_METRICS, _METRICS = 1 << 18, 1 << 26
"""States whose costs are held at a time: as many as stay in a CPU's cache, or keep a card busy."""
_CPU_BYTES, _BYTES = 64 << 20, 1 << 30
"""Memory for the steps back."""


def search(unit: Tensor, table: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """Codes that minimize ``sum_j h_j (x_nj - table[window_nj])^2`` for each row n.

    That is exact but for where the ring closes: the states there are those of the best path
    through the weights around it.

    Args:
        unit: x, float32 ``[rows, columns]``, columns in a multiple of 8.
        table: float32 ``[2^L]``.
        bits: k, by which the window moves.
        importance: h, float32 ``[columns]``, non-negative; None for ones.

    Returns:
        uint8 ``[rows, columns / 8, k]``: the stream's bytes, see ``kernels.coded.Trellis``.
    """
    rows, columns = unit.shape
    trellis = Trellis(table, bits)
    codes = []
    for part in unit.split(rows_at_once(unit.device, columns, len(table), len(table) >> bits)):
        weights = part.flip(1).T.contiguous()
        aim = None if importance is None else importance.flip(0)
        joint = trellis.joint(weights, aim)
        states = trellis.path(weights, aim, joint, joint).T.flip(1)
        codes.append(packed(states & ((1 << bits) - 1), bits))
    return torch.cat(codes) if codes else unit.new_empty((rows, columns // 8, bits)).byte()


def rows_at_once(device: torch.device, columns: int, states: int, branches: int) -> int:
    """How many rows to search together."""
    cpu = device.type == "cpu"
    by_metrics = (_CPU_METRICS if cpu else _METRICS) // states
    by_steps = (_CPU_BYTES if cpu else _BYTES) // (columns * branches)
    return max(1, min(by_metrics, by_steps))


def packed(digits: Tensor, bits: int) -> Tensor:
    """Bytes of k-bit digits ``[rows, columns]``, the first lowest: uint8 ``[rows, columns / 8, k]``."""
    shifts = torch.arange(GROUP, device=digits.device) * bits
    words = (digits.view(len(digits), -1, GROUP) << shifts).sum(2, keepdim=True)
    return (words >> (torch.arange(bits, device=digits.device) * 8)).to(torch.uint8)


class Trellis:
    """States of ``L`` bits into which ``k`` bits are shifted from below, with their values.

    Costs lie in memory by the bits that leave next, then those that came last, then the others:
    so both the minimum over the former and the sum over the latter take whole slices.
    """

    def __init__(self, table: Tensor, bits: int) -> None:
        self.bits = bits
        self.turns = 1 << bits
        self.branches = len(table) >> bits
        states = torch.arange(len(table), device=table.device)
        self.states = states.view(self.turns, -1, self.turns).transpose(1, 2).flatten()
        self.values = table[self.states][None]
        self.squares = self.values.square().view(self.turns, self.turns, -1)
        self.marks = torch.arange(self.turns, dtype=torch.int32, device=table.device)[:, None]

    def joint(self, weights: Tensor, importance: Tensor | None) -> Tensor:
        """By what paths overlap with themselves where they close to a ring, int64 ``[rows]``.

        That of the best path through the weights around, which are given as for ``path``.
        """
        around = min(_AROUND, len(weights) // 2)

        def near(x: Tensor) -> Tensor:
            return torch.cat((x[-around:], x[:around]))

        aim = None if importance is None else near(importance)
        return self.path(near(weights), aim)[around] >> self.bits

    def path(
        self,
        weights: Tensor,
        importance: Tensor | None,
        start: Tensor | None = None,
        end: Tensor | None = None,
    ) -> Tensor:
        """States of the best path, int64 ``[steps, rows]``.

        Args:
            weights: float32 ``[steps, rows]``.
            importance: ``[steps]``, or None for ones.
            start, end: ``[rows]``; the ``L - k`` high bits of the first state and the low ones of the
                last, where they are given: by what comes before and after, or by the ring.
        """
        steps, rows = weights.shape
        aims = [1.0] * steps if importance is None else importance.tolist()
        slopes = (-2 * weights if importance is None else -2 * weights * importance[:, None])[
            ..., None
        ]
        back = torch.empty((steps, rows, self.branches), dtype=torch.uint8, device=weights.device)
        best = weights.new_zeros(rows, self.branches)
        costs = weights.new_empty(rows, len(self.states))
        for step in range(steps):
            if step:
                best = self._cheapest(costs, back[step])
            # the squared distance but for what all states have in common
            came = costs.view(rows, *self.squares.shape)
            torch.add(best.view(rows, self.turns, 1, -1), self.squares, alpha=aims[step], out=came)
            costs.addmm_(slopes[step], self.values)
            if start is not None and step == 0:
                costs.masked_fill_(self.states >> self.bits != start[:, None], _IMPOSSIBLE)
        if end is not None:
            costs.masked_fill_(self.states % self.branches != end[:, None], _IMPOSSIBLE)
        return self._traced(self.states[costs.argmin(1)], back)

    def _cheapest(self, costs: Tensor, turns: Tensor) -> Tensor:
        """Least cost of the predecessors ``[rows, branches]``; which one it is goes into ``turns``.

        Its index replaces the lowest bits of each cost, so that the minimum brings it along.
        """
        last = self.turns - 1
        marked = costs.view(torch.int32).view(len(costs), self.turns, -1)
        marked.bitwise_and_(~last).bitwise_or_(self.marks)
        best = costs.view(marked.shape).amin(1).view(len(costs), self.turns, -1)
        best = best.transpose(1, 2).flatten(1)  # by the states' own order
        turns.copy_(best.view(torch.int32) & last)
        return best.sub_(best.amin(1, keepdim=True))

    def _traced(self, state: Tensor, back: Tensor) -> Tensor:
        states = torch.empty(back.shape[:2], dtype=torch.int64, device=back.device)
        states[-1] = state
        for step in range(len(back) - 1, 0, -1):
            branch = state >> self.bits
            turn = back[step].gather(1, branch[:, None])[:, 0].long()
            state = turn * self.branches + branch
            states[step - 1] = state
        return states
