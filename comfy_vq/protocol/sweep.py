"""One sweep of beam search over all codes of a layer, under the errors of its outputs.

AQLM (arXiv 2401.06118, section 3.2), as VQDM uses it: group by group and codebook by codebook, in random order, the
best beams of whole rows are kept; what a code changes is judged together with the errors of all other columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codecs.beam import smallest
from ..codecs.codebooks import ENTRIES, GROUP
from .weight import summed

_TOGETHER = 16
"""Groups that are searched before their changes are carried over to all columns."""
_BEAM_BYTES = 1 << 29
"""Of the errors of all beams; more rows are searched in several parts."""


def sweep(
    weight: Tensor,
    moments: Tensor,
    codes: Tensor,
    codebooks: Tensor,
    scales: Tensor,
    beam: int,
    generator: torch.Generator,
) -> Tensor:
    """Better codes by ``sum_rows e H e^T``, where e is the error of a row.

    Args:
        weight: float32 ``[rows, columns]``.
        moments: H, float32 ``[columns, columns]``, symmetric.
        codes, codebooks, scales: see ``SummedWeight``.
        beam: rows kept of each row, at least 1.
        generator: of the order, on the CPU.

    Returns:
        uint8 codes; the error of no row is larger than before.
    """
    order = torch.randperm(codes.shape[1], generator=generator)
    books = [torch.randperm(len(codebooks), generator=generator).tolist() for _ in order]
    size = max(1, _BEAM_BYTES // (4 * beam * weight.shape[1]))
    found = []
    for start in range(0, len(weight), size):
        part = slice(start, start + size)
        beams = _Beams(weight[part], moments, codes[part], codebooks, scales[part], beam)
        for first in range(0, len(order), _TOGETHER):
            together = slice(first, first + _TOGETHER)
            beams.search(order[together].to(weight.device), books[together])
        found.append(beams.best())
    return torch.cat(found)


@dataclass(frozen=True, eq=False)
class _State:
    """Beams while some groups are searched, of whose columns alone is kept what changes.

    Attributes:
        slopes: ``e H`` in these columns, ``[rows, beams, columns]``.
        changes: of the weights since the search began, likewise.
        codes: ``[rows, beams, groups, M]``.
        origin: which beam each comes from, ``[rows, beams]``.
        costs: ``e H e^T``, likewise.
    """

    slopes: Tensor
    changes: Tensor
    codes: Tensor
    origin: Tensor
    costs: Tensor


class _Beams:
    """The beams of some rows.

    Attributes:
        errors: of the weights, ``[rows, beams, columns]``.
        codes: ``[rows, beams, groups, M]``.
        costs: ``e H e^T``, ``[rows, beams]``.
    """

    def __init__(
        self,
        weight: Tensor,
        moments: Tensor,
        codes: Tensor,
        codebooks: Tensor,
        scales: Tensor,
        beam: int,
    ) -> None:
        self._moments, self._books, self._scales, self._beam = moments, codebooks, scales, beam
        error = weight - summed(codes, codebooks, scales)
        self.errors = error[:, None]
        self.codes = codes[:, None]
        self.costs = (error @ moments * error).sum(1, keepdim=True)

    def best(self) -> Tensor:
        place = self.costs.argmin(1)
        return self.codes[torch.arange(len(place), device=place.device), place]

    def search(self, groups: Tensor, orders: list[list[int]]) -> None:
        """Some groups, one after the other. Other columns are only looked at before and after."""
        rows, beams, _ = self.errors.shape
        columns = (GROUP * groups[:, None] + torch.arange(GROUP, device=groups.device)).flatten()
        among = self._moments[columns][:, columns]
        state = _State(
            slopes=(self.errors.flatten(0, 1) @ self._moments[:, columns]).view(rows, beams, -1),
            changes=self.errors.new_zeros(rows, beams, len(columns)),
            codes=self.codes[:, :, groups],
            origin=torch.arange(beams, device=groups.device).expand(rows, -1),
            costs=self.costs,
        )
        for place, order in enumerate(orders):
            for book in order:
                state = self._step(state, among, place, book)
        self.errors = _taken(self.errors, state.origin)
        self.errors[:, :, columns] -= state.changes
        self.codes = _taken(self.codes, state.origin)
        self.codes[:, :, groups] = state.codes
        self.costs = state.costs

    def _step(self, state: _State, among: Tensor, place: int, book: int) -> _State:
        """Every entry in the place of one code of every beam; the best of all of them go on.

        With d the change of a group's columns and g the slope ``e H`` there, the cost changes by
        ``d H d^T - 2 g d^T``.
        """
        here = slice(GROUP * place, GROUP * (place + 1))
        table, scale = self._books[book], self._scales[:, None, None]
        inner = among[here, here]
        old = table[state.codes[:, :, place, book].long()] * scale
        pull = state.slopes[..., here] + old @ inner
        kept = (old * (pull + state.slopes[..., here])).sum(-1) + state.costs
        norms = ((table @ inner) * table).sum(1)
        costs = torch.addmm(kept.view(-1, 1), (-2 * scale * pull).flatten(0, 1), table.T).view(
            len(pull), -1, ENTRIES
        )
        costs.addcmul_(scale.square(), norms)
        values, picks = smallest(costs.flatten(1), self._beam)
        parents, chosen = picks // ENTRIES, picks % ENTRIES
        change = table[chosen] * scale - _taken(old, parents)
        slopes = _taken(state.slopes, parents)
        slopes -= (change.flatten(0, 1) @ among[here]).view_as(slopes)
        changes = _taken(state.changes, parents)
        changes[..., here] += change
        codes = _taken(state.codes, parents)
        codes[:, :, place, book] = chosen.to(torch.uint8)
        return _State(slopes, changes, codes, state.origin.gather(1, parents), values)


def _taken(tensor: Tensor, beams: Tensor) -> Tensor:
    """A copy with ``[rows, beams]`` of the beams of ``[rows, beams, ...]``."""
    rows = torch.arange(len(beams), device=beams.device)[:, None]
    return tensor[rows, beams]
