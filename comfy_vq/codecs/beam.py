"""Beam search for additive codes: which entry of each codebook, so that their sum is nearest."""

import torch
from torch import Tensor

_MEMBERS = 16
"""Columns per bucket in ``_smallest``."""


def search(
    groups: Tensor, values: Tensor, beam: int, importance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Codes that (nearly) minimize ``sum_d h_d (x_d - sum_m C_m[code_m]_d)^2`` for each group.

    The codebooks are visited in order; after each, the ``beam`` best partial sums are kept
    (AQLM, arXiv 2401.06118, section 3.2, with one visit per codebook).

    Args:
        groups: x, float32 ``[n, group]``.
        values: C, float32 ``[M, entries, group]``.
        beam: partial sums kept per group, at least 1.
        importance: h, float32 ``[n, group]``, non-negative; None for ones.

    Returns:
        uint8 codes ``[n, M]`` and their (weighted) squared errors, float32 ``[n]``.
    """
    count, entries = groups.shape[0], values.shape[1]
    residuals = groups[:, None]
    costs = groups.new_zeros(count, 1)
    codes = torch.empty((count, 1, 0), dtype=torch.uint8, device=groups.device)
    for table in values:
        # ||r - c||^2 = ||r||^2 + ||c||^2 - 2 r.c; ||r||^2 rides along in costs, from 0 at the start
        if importance is None:
            norms = table.square().sum(1)
            scores = torch.addmm(norms, residuals.flatten(0, 1), table.T, alpha=-2)
            scores = scores.view(count, -1, entries)
        else:
            norms = (importance @ table.square().T)[:, None]
            scores = torch.matmul(residuals * importance[:, None], table.T).mul_(-2).add_(norms)
        scores.add_(costs[..., None])
        costs, picks = _smallest(scores.flatten(1), min(beam, scores.shape[1] * entries))
        parents, chosen = picks // entries, picks % entries
        residuals = residuals.gather(1, parents[..., None].expand(-1, -1, groups.shape[1]))
        residuals = residuals - table[chosen]
        codes = codes.gather(1, parents[..., None].expand(-1, -1, codes.shape[2]))
        codes = torch.cat((codes, chosen[..., None].to(torch.uint8)), 2)
    best = costs.argmin(1, keepdim=True)
    energy = groups.square() if importance is None else groups.square() * importance
    codes = codes.gather(1, best[..., None].expand(-1, -1, codes.shape[2]))[:, 0]
    return codes, costs.gather(1, best)[:, 0] + energy.sum(1)


def _smallest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``torch.topk(scores, count, largest=False)``, several times faster for wide rows on a CPU.

    The ``count`` smallest elements lie in the ``count`` buckets of smallest minimum, so a
    vectorized minimum over buckets leaves little to sort.
    """
    rows, width = scores.shape
    buckets = width // _MEMBERS
    if count == 1:
        values, indices = scores.min(1, keepdim=True)
        return values, indices
    if scores.is_cuda or width % _MEMBERS or buckets <= 2 * count:
        return scores.topk(count, dim=1, largest=False, sorted=False)
    tiles = scores.view(rows, _MEMBERS, buckets)
    minima = tiles.amin(1)
    nearest = minima.topk(count, dim=1, largest=False, sorted=False).indices
    members = tiles.gather(2, nearest[:, None].expand(-1, _MEMBERS, -1)).flatten(1)
    values, positions = members.topk(count, dim=1, largest=False, sorted=False)
    bucket = nearest.gather(1, positions % count)
    return values, positions // count * buckets + bucket
