"""A path through a trellis under second moments, by a search in which each survivor goes its own way.

Under feedback the target of a weight is moved by the errors before it, and so depends on the path.
A Viterbi search keeps one path to each state, its survivor; here that brings its latest errors along,
and is measured by targets that they alone have moved (per-survivor processing, Raheli, Polydoros and
Tzou 1995). Older errors are those of one path: after each stretch the oldest one that is still open is
settled as on the best path, and survivors that left it before are given up. The last stretch, where
errors can no longer be made up for and the ring has to close, is searched with more survivors.

States, and the order in which they lie in memory, are those of ``kernels.viterbi``. A branch is what
stays of a state when the next weight's bits come in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.viterbi import IMPOSSIBLE
from . import viterbi

STRETCH = 8
OWN = 32
"""Weights whose errors each survivor brings along, in a multiple of the stretch."""


@dataclass(frozen=True, eq=False)
class Stretch:
    """What errors around a stretch of weights do; moves of targets are per unit of a weight's error.

    Attributes:
        costs: of a squared error, for each weight.
        within: by which each weight moves those after it, ``[STRETCH, STRETCH]``.
        before: by which the ``OWN`` weights before move it, ``[OWN, STRETCH]``.
        settled: by which those of the stretch that was settled last move it and all that follows,
            ``[STRETCH, n]``; None where they move nothing.
    """

    costs: list[float]
    within: Tensor
    before: Tensor
    settled: Tensor | None


def stretches(factors: Tensor, columns: int) -> list[Stretch]:
    """Those of a row of ``columns``, for ``factors`` of its blocks (see ``feedback.Aim``) in their order."""
    blocks, size = factors.shape[:2]
    found = []
    for factor in factors:
        diagonal = factor.diagonal()
        costs, moves = diagonal.square().reciprocal().tolist(), factor / diagonal[:, None]
        # so that the first stretches have weights before them, too, which move nothing
        padded = torch.cat((moves.new_zeros(OWN, size), moves.triu(1)))
        for start in range(0, size, STRETCH):
            here, begin = slice(start, start + STRETCH), start - OWN
            oldest = moves[begin - STRETCH : begin, start:] if begin >= STRETCH else None
            around = padded[start : start + OWN + STRETCH, here]
            found.append(Stretch(costs[here], around[OWN:], around[:OWN], oldest))
    return found * (columns // (blocks * size))


def rows_at_once(table: Tensor, bits: int) -> int:
    """How many rows to search together."""
    # Those of the last stretch fill a card's memory; a CPU's cache is for the many before it.
    states = len(table) if table.device.type == "cpu" else len(table) << bits
    return viterbi.rows_at_once(table.device, 4 * (OWN + STRETCH), states, len(table))


def path(targets: Tensor, table: Tensor, bits: int, ring: Tensor, steps: list[Stretch]) -> Tensor:
    """States ``[columns, rows]`` of the best path that was found.

    Args:
        targets: float32 ``[rows, columns]``; is overwritten.
        table: float32 ``[2^L]``.
        bits: k.
        ring: the branch in which each path begins and ends, int64 ``[rows]``.
        steps: of ``stretches``.
    """
    branches, chosen = len(table) >> bits, ring[:, None]
    costs = targets.new_full((len(targets), branches), IMPOSSIBLE).scatter_(1, chosen, 0.0)
    survivors, states = _Survivors(table, bits, costs), []
    for n, step in enumerate(steps):
        start = n * STRETCH
        if step.settled is not None:
            targets[:, start : start + step.settled.shape[1]] -= survivors.settled @ step.settled
        if n + 1 == len(steps):
            survivors = survivors.widened()
        survivors.go(targets[:, start : start + STRETCH], step)
        if n + 1 == len(steps):
            survivors.keep(survivors.stays % branches == chosen)
        states.append(survivors.settle())
    return torch.cat([*states, survivors.rest()]) & (len(table) - 1)


class _Survivors:
    """One path to each branch of each row.

    Attributes:
        stays: all branches.
        settled: errors of the stretch that was settled last, ``[rows, STRETCH]``.
    """

    def __init__(self, table: Tensor, bits: int, costs: Tensor) -> None:
        """Start with what each costs so far, ``[rows, branches]``."""
        self.bits, self.table = bits, table
        self.turns = 1 << bits
        self.branches = len(table) >> bits
        # by the bits that leave next, those that come, and the others
        self.values = table.view(self.turns, -1, self.turns).transpose(1, 2).contiguous()
        rows, device = len(costs), table.device
        self.marks = torch.arange(self.turns, dtype=torch.int32, device=device)[:, None, None]
        self.stays = torch.arange(self.branches, device=device)
        self.firsts = torch.arange(0, rows * self.branches, self.branches, device=device)[:, None]
        self.costs = costs
        # what each brings along: its errors, and the branches in which its stretches ended
        self.errors = table.new_zeros(self.costs.numel(), OWN + STRETCH)
        self.ends = self.stays.new_zeros(self.costs.numel(), 1 + OWN // STRETCH)
        self.back: list[Tensor] = []
        self.settled = table.new_zeros(rows, STRETCH)

    def go(self, targets: Tensor, step: Stretch) -> None:
        """Lead every survivor through a stretch, with targets ``[rows, STRETCH]``."""
        moves, made = self.errors[:, STRETCH:] @ step.before, []
        back = torch.empty((STRETCH, *self.costs.shape), dtype=torch.uint8, device=targets.device)
        for n, cost in enumerate(step.costs):
            aim = targets[:, n, None] - moves[:, n].view(self.costs.shape)
            turn = self._cheapest(aim, cost)
            back[n] = turn
            state = turn * self.branches + self.stays
            came = ((state >> self.bits) + self.firsts).flatten()
            error = aim.flatten().index_select(0, came)
            made.append(error.sub_(self.table.index_select(0, state.flatten())))
            if n + 1 < STRETCH:
                moves = moves.index_select(0, came).addr_(error, step.within[n])
        self._follow(back, made)

    def widened(self) -> _Survivors:
        """These, of which from here on one is kept for each way into a branch.

        Their states have ``bits`` older bits more, on which the entry does not depend.
        """
        costs = self.costs.new_full((len(self.costs), self.turns * self.branches), IMPOSSIBLE)
        turns = self.back[-1][-1].long() if self.back else torch.zeros_like(self.costs).long()
        costs.scatter_(1, turns * self.branches + self.stays, self.costs)
        wide = _Survivors(self.table.repeat(self.turns), self.bits, costs)
        wide.errors, wide.ends = self._repeated(self.errors), self._repeated(self.ends)
        wide.back, wide.settled = self.back, self.settled
        return wide

    def keep(self, those: Tensor) -> None:
        """Give up all other survivors than those of bool ``[rows, branches]``."""
        self.costs.masked_fill_(~those, IMPOSSIBLE)

    def settle(self) -> Tensor:
        """Settle the oldest stretch as on the best path of each row.

        Returns:
            States of that stretch, ``[STRETCH, rows]``; none while few are open.
        """
        best = self.costs.argmin(1, keepdim=True)
        ends = self.ends[:, 0].view(self.costs.shape)
        end = ends.gather(1, best)
        self.keep(ends == end)
        self.settled = self.errors[(best + self.firsts)[:, 0], :STRETCH]
        if len(self.back) * STRETCH <= OWN:
            return best.new_empty((0, len(best)))
        return self._traced(self.back.pop(0), end)[0]

    def rest(self) -> Tensor:
        """States of all that is not settled, as on the best path of each row."""
        found, branch = [], self.costs.argmin(1, keepdim=True)
        for back in reversed(self.back):
            states, branch = self._traced(back, branch)
            found.append(states)
        return torch.cat(found[::-1])

    def _cheapest(self, aim: Tensor, cost: float) -> Tensor:
        """By which bits that leave each branch is reached best, int32; ``costs`` become those then."""
        rows = len(aim)
        off = aim.view(rows, self.turns, 1, -1) - self.values
        costs = torch.addcmul(self.costs.view(rows, self.turns, 1, -1), off, off, value=cost)
        # these bits replace the lowest of each cost, so that the minimum brings them along
        costs.view(torch.int32).bitwise_and_(-self.turns).bitwise_or_(self.marks)
        best = costs.amin(1).transpose(1, 2).reshape(rows, -1)
        self.costs = best - best.amin(1, keepdim=True)
        return best.view(torch.int32) & (self.turns - 1)

    def _follow(self, back: Tensor, made: list[Tensor]) -> None:
        """Bring what belongs to survivors to the branches that they have reached in a stretch."""
        at, errors = self.stays.expand(self.costs.shape), []
        for turns, error in zip(back.flip(0), reversed(made), strict=True):
            errors.append(error.view(self.costs.shape).gather(1, at).flatten())
            at = self._state(turns, at) >> self.bits
        came = (at + self.firsts).flatten()
        here = self.stays.repeat(len(at))[:, None]
        kept = self.errors.index_select(0, came)[:, STRETCH:]
        self.errors = torch.cat((kept, torch.stack(errors[::-1], 1)), 1)
        self.ends = torch.cat((self.ends.index_select(0, came)[:, 1:], here), 1)
        self.back.append(back)

    def _repeated(self, brought: Tensor) -> Tensor:
        """What survivors bring along, for those of as many more branches."""
        return brought.view(*self.costs.shape, -1).repeat(1, self.turns, 1).flatten(0, 1)

    def _state(self, turns: Tensor, branch: Tensor) -> Tensor:
        return turns.gather(1, branch).long() * turns.shape[1] + branch

    def _traced(self, back: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """States of a stretch on the way to a branch, ``[STRETCH, rows]``; the branch before it."""
        states, branch = [], branch % back.shape[2]  # which may have been of wider states
        for turns in back.flip(0):
            states.append(self._state(turns, branch))
            branch = states[-1] >> self.bits
        return torch.cat(states[::-1], 1).T, branch
