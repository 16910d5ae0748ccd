"""The optimizer against exhaustive search."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from comfy_vq.plan.allocate import Options, allocate, reachable


def random_options(seed: int, layers: int) -> Options:
    rng = np.random.default_rng(seed)
    numel = rng.integers(20, 200, (layers, 1)).astype(float)
    widths = np.array([1.0, 2.0, 3.0, 8.0])
    bits = numel * widths
    bits[rng.random(bits.shape) < 0.15] = np.inf
    bits[:, -1] = 8 * numel[:, 0]
    noise = rng.exponential(1, (layers, 1)) * np.array([0.3, 0.1, 0.03, 0.0])
    return Options(bits, noise, np.array([30.0, 60.0, 90.0, 0.0]))


@pytest.mark.parametrize("seed", range(12))
def test_finds_the_quietest_allocation_in_the_window(seed: int) -> None:
    options = random_options(seed, 6)
    low, high = reachable(options)
    target, tolerance = low + 0.4 * (high - low), 0.05 * (high - low)
    every = [np.array(c) for c in product(range(4), repeat=6)]
    inside = [c for c in every if target - tolerance <= options.total_bits(c) <= target]
    best = min(map(options.total_noise, inside))
    found = allocate(options, target, tolerance)
    assert target - tolerance <= options.total_bits(found) <= target
    assert options.total_noise(found) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_reachable_is_what_exhaustive_search_finds(seed: int) -> None:
    options = random_options(seed, 5)
    totals = [options.total_bits(np.array(c)) for c in product(range(4), repeat=5)]
    finite = [t for t in totals if np.isfinite(t)]
    assert reachable(options) == pytest.approx((min(finite), max(finite)), rel=0.02)


def test_what_no_allocation_meets_gets_the_nearest() -> None:
    options = Options(np.array([[10.0, 20.0]]), np.array([[1.0, 0.5]]), np.zeros(2))
    assert allocate(options, 14.0, 0.5).tolist() == [0]
    assert allocate(options, 16.0, 0.5).tolist() in ([0], [1])
