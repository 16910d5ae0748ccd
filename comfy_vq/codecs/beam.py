"""Beam search for additive codes: which entry of each codebook, so that their sum is nearest."""

import math

import numpy as np
import torch
from torch import Tensor


def search(groups: Tensor, values: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """Codes that (nearly) minimize ``||x - sum_m C_m[code_m]||^2`` for each group.

    The codebooks are visited in order; after each, the ``beam`` best partial sums are kept
    (AQLM, arXiv 2401.06118, section 3.2, with one visit per codebook).

    Args:
        groups: x, float32 ``[n, group]``.
        values: C, float32 ``[M, entries, group]``.
        beam: partial sums kept per group, at least 1.

    Returns:
        uint8 codes ``[n, M]`` and their squared errors, float32 ``[n]``.
    """
    size = slice_length(groups.device, beam)
    # Reused by all slices: memory that is taken anew costs a CPU more than the scores themselves.
    scores = groups.new_empty(min(size, len(groups)) * beam * values.shape[1])
    codes, errors = [], []
    for start in range(0, len(groups), size):
        part = slice(start, start + size)
        found, error = _search_slice(groups[part], values, beam, scores)
        codes.append(found)
        errors.append(error)
    return torch.cat(codes), torch.cat(errors)


def slice_length(device: torch.device, beam: int) -> int:
    """Groups to search at once: scores of 16 MiB on a CPU, 64 MiB elsewhere."""
    scores = 1 << (22 if device.type == "cpu" else 24)
    return max(1, scores // (256 * beam))


def _search_slice(
    groups: Tensor, values: Tensor, beam: int, workspace: Tensor
) -> tuple[Tensor, Tensor]:
    count, entries, width = groups.shape[0], values.shape[1], values.shape[2]
    # ||r - c||^2 = ||r||^2 + ||c||^2 - 2 r.c: the first term, but for ||x||^2, which every choice
    # has in common, is the cost so far. It rides along with its residual: r, cost, 1.
    state = torch.nn.functional.pad(groups, (0, 2))[:, None]
    state[..., -1] = 1.0
    codes = torch.empty((count, 1, 0), dtype=torch.uint8, device=groups.device)
    for visited, table in enumerate(values, 1):
        keep = beam if visited < len(values) else 1
        scores = _scores(state, table, workspace)
        costs, picks = smallest(scores, min(keep, scores.shape[1]))
        parents, chosen = picks // entries, picks % entries
        codes = codes.gather(1, parents[..., None].expand(-1, -1, codes.shape[2]))
        codes = torch.cat((codes, chosen[..., None].to(torch.uint8)), 2)
        if visited < len(values):
            state = state.gather(1, parents[..., None].expand(-1, -1, width + 2))
            state[..., :width] -= table[chosen]
            state[..., width] = costs
    return codes[:, 0], costs[:, 0] + groups.square().sum(1)


def _scores(state: Tensor, table: Tensor, workspace: Tensor) -> Tensor:
    """Cost of every entry after every partial sum, ``[n, beams * entries]``."""
    norms = table.square().sum(1)
    right = torch.cat((-2 * table.T, torch.ones_like(norms)[None], norms[None]))
    rows = state.flatten(0, 1)
    scores = workspace[: len(rows) * len(table)].view(len(rows), -1)
    return torch.mm(rows, right, out=scores).view(len(state), -1)


def smallest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``torch.topk(scores, count, largest=False)``, several times faster for wide rows on a CPU.

    The ``count`` smallest elements lie in the ``count`` buckets of smallest minimum, so a
    vectorized minimum over buckets leaves little to sort.
    """
    rows, width = scores.shape
    # Least to sort in all, buckets and the members of some, is with as many of the one as the other.
    size = 1 << round(math.log2(width / count) / 2)
    if scores.device.type != "cpu" or size == 1 or width % size:
        return _select(scores, count)
    buckets = width // size
    tiles = scores.view(rows, size, buckets)
    nearest = _select(tiles.amin(1), count)[1]
    members = tiles.gather(2, nearest[:, None].expand(-1, size, -1)).flatten(1)
    values, positions = _select(members, count)
    bucket = nearest.gather(1, positions % count)
    return values, positions // count * buckets + bucket


def _select(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the ``count`` smallest of each row, in any order."""
    if count == 1:
        values, indices = scores.min(1, keepdim=True)
        return values, indices
    if scores.device.type != "cpu":
        values, indices = scores.topk(count, dim=1, largest=False, sorted=False)
        return values, indices
    # numpy's partition is vectorized, topk is not
    indices = torch.from_numpy(np.argpartition(scores.numpy(), count - 1, axis=1)[:, :count])
    return scores.gather(1, indices), indices
