"""The best path through a shift register, in plain PyTorch: a Viterbi search over all of its states.

A state of ``L`` bits stands for the entry of a table; ``k`` bits are shifted into it from below, so that
each state has ``2^k`` predecessors.
"""

import torch
from torch import Tensor

IMPOSSIBLE = 1e30
"""Cost of a state that is excluded; infinity would turn into NaN, since costs carry an index."""


def best_path(
    weights: Tensor,
    table: Tensor,
    bits: int,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Tensor:
    """See ``dispatch.best_path``."""
    return _Trellis(table, bits).path(weights, start, end)


class _Trellis:
    """States with their values.

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
        self.per_byte = 8 // bits if bits in (1, 2, 4) else 2 if bits == 3 else 1
        self.marks = torch.arange(self.turns, dtype=torch.int32, device=table.device)[:, None]

    def path(self, weights: Tensor, start: Tensor | None, end: Tensor | None) -> Tensor:
        steps, rows = weights.shape
        slopes = (-2 * weights)[..., None]
        kept = (steps, rows, self.branches // self.per_byte)
        back = torch.empty(kept, dtype=torch.uint8, device=weights.device)
        best = weights.new_zeros(rows, self.branches)
        costs = weights.new_empty(rows, len(self.states))
        for step in range(steps):
            if step:
                best = self._cheapest(costs, back[step])
            # the squared distance but for what all states have in common
            came = costs.view(rows, *self.squares.shape)
            torch.add(best.view(rows, self.turns, 1, -1), self.squares, out=came)
            costs.addcmul_(slopes[step], self.values)
            if start is not None and step == 0:
                costs.masked_fill_(self.states >> self.bits != start[:, None], IMPOSSIBLE)
        if end is not None:
            costs.masked_fill_(self.states % self.branches != end[:, None], IMPOSSIBLE)
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
        self._pack(best.view(torch.int32).to(torch.uint8) & last, turns)
        return best.sub_(best.amin(1, keepdim=True))

    def _pack(self, turns: Tensor, packed: Tensor) -> None:
        """Bytes of numbers of ``bits`` bits ``[rows, branches]``, several in each of ``packed``."""
        parts = turns.view(len(turns), self.per_byte, -1).unbind(1)
        packed.copy_(parts[0])
        for n in range(1, self.per_byte):
            packed.add_(parts[n], alpha=1 << 8 // self.per_byte * n)

    def _traced(self, state: Tensor, back: Tensor) -> Tensor:
        states = torch.empty(back.shape[:2], dtype=torch.int64, device=back.device)
        states[-1] = state
        for step in range(len(back) - 1, 0, -1):
            branch = state >> self.bits
            place, part = branch % back.shape[2], branch // back.shape[2]
            turns = back[step].gather(1, place[:, None])[:, 0].long()
            turn = (turns >> 8 // self.per_byte * part) & (self.turns - 1)
            state = turn * self.branches + branch
            states[step - 1] = state
        return states
