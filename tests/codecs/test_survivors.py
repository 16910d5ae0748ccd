"""Paths under feedback, each survivor of the search with its own errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comfy_vq.codecs import feedback, survivors

COLUMNS, BITS, WINDOW = 8, 2, 6


def table() -> Tensor:
    return torch.randn(1 << WINDOW, generator=torch.Generator().manual_seed(7))


def rows(count: int, columns: int = COLUMNS) -> Tensor:
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(1))


def moments(width: int, strength: float) -> Tensor:
    """Of inputs that have a share of their power in common."""
    mix = torch.randn(width, width // 4, generator=torch.Generator().manual_seed(2))
    return strength * mix @ mix.T / (width // 4) + (1 - strength) * torch.eye(width)


def factors(h: Tensor) -> Tensor:
    """In the order of a path, the first column of which is the row's first here."""
    return feedback.aim_at(h[None], None, len(h), backwards=False).factors


def ordered(h: Tensor) -> Tensor:
    order = feedback.aim_at(h[None], None, len(h), backwards=False).orders[0]
    return h[order][:, order]


def search(targets: Tensor, h: Tensor, ring: Tensor) -> Tensor:
    """Values of the path that is found, ``[rows, columns]``."""
    steps = survivors.stretches(factors(h), targets.shape[1])
    return table()[survivors.path(targets.clone(), table(), BITS, ring, steps).T]


def every_ring(ring: int) -> Tensor:
    """Values of all paths of ``COLUMNS`` that begin and end in a branch, ``[paths, columns]``."""
    words = torch.arange(1 << BITS * COLUMNS)
    turns = [(words >> BITS * n) & ((1 << BITS) - 1) for n in range(COLUMNS)]
    state, states = torch.full_like(words, ring), []
    for turn in turns:
        state = ((state << BITS) | turn) & ((1 << WINDOW) - 1)
        states.append(state)
    closed = state & ((1 << WINDOW - BITS) - 1) == ring
    return table()[torch.stack(states, 1)[closed]]


def cost(errors: Tensor, h: Tensor) -> Tensor:
    h = ordered(h) + feedback.DAMPING * h.diagonal().mean() * torch.eye(len(h))
    return ((errors @ h) * errors).sum(-1)


def least(targets: Tensor, h: Tensor, ring: int) -> Tensor:
    return torch.stack([cost(row - every_ring(ring), h).min() for row in targets])


@pytest.mark.parametrize("ring", [0, 3])
def test_the_best_of_all_paths_is_found_where_nothing_is_fed_back(ring):
    targets, h = rows(8), torch.eye(COLUMNS)
    found = search(targets, h, torch.full((8,), ring))
    torch.testing.assert_close(cost(targets - found, h), least(targets, h, ring), rtol=1e-4, atol=0)


def test_a_path_near_the_best_of_all_is_found_under_feedback():
    targets, h = rows(32), moments(COLUMNS, 0.9)
    found = cost(targets - search(targets, h, torch.full((32,), 1)), h).sum()
    assert found < 1.25 * least(targets, h, 1).sum()


def test_paths_are_rings():
    ring = torch.arange(16)
    steps = survivors.stretches(factors(moments(128, 0.9)), 256)
    states = survivors.path(rows(16, 256), table(), BITS, ring, steps)
    assert states.shape == (256, 16)
    assert torch.equal(states[0] >> BITS, ring)
    assert torch.equal(states[-1] & ((1 << WINDOW - BITS) - 1), ring)
    stays = states[:-1] & ((1 << WINDOW - BITS) - 1)
    assert torch.equal(states[1:] >> BITS, stays)


@pytest.mark.parametrize("columns", [survivors.OWN, survivors.OWN + 8, 4 * survivors.OWN])
def test_targets_are_moved_by_all_errors_before_them(columns):
    """By those that a survivor brings along, and by settled ones: a path that is there is found."""
    steps = survivors.stretches(factors(moments(columns, 0.9)), columns)
    ring = torch.zeros(16, dtype=torch.int64)
    states = survivors.path(rows(16, columns), table(), BITS, ring, steps)
    again = survivors.path(table()[states].T.clone(), table(), BITS, ring, steps)
    assert torch.equal(again, states)
