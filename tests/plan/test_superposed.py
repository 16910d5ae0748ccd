"""Allocations where errors of layers add up as vectors."""

from itertools import product

import numpy as np
import pytest

from comfy_vq.plan.superposed import improve

WIDTHS = 3


def candidates(layers: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors that share a direction and halve with each bit; a layer's weights differ in number."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(6)
    which = np.repeat(np.arange(layers), WIDTHS)
    bits = np.tile(np.arange(1.0, WIDTHS + 1), layers) * np.repeat(
        rng.integers(1, 5, layers), WIDTHS
    )
    own = rng.standard_normal((layers * WIDTHS, 6)) + common
    errors = own * 0.5 ** np.tile(np.arange(WIDTHS), layers)[:, None]
    return which, bits, errors


def noise(errors: np.ndarray, picked: np.ndarray) -> float:
    return float(np.square(errors[picked].sum(0)).sum())


def quietest(which, bits, errors, budget: float) -> float:
    """By trying all."""
    options = [np.flatnonzero(which == layer) for layer in range(which.max() + 1)]
    return min(
        noise(errors, np.array(chosen))
        for chosen in product(*options)
        if bits[list(chosen)].sum() <= budget
    )


@pytest.mark.parametrize("seed", range(8))
def test_noise_falls_within_the_bits(seed):
    which, bits, errors = candidates(6, seed)
    start = np.arange(6) * WIDTHS + 1
    better = improve(which, bits, errors, start, 0.0)
    assert (which[better] == np.arange(6)).all()
    assert bits[better].sum() <= bits[start].sum()
    assert noise(errors, better) <= noise(errors, start)


def test_most_of_what_there_is_to_gain_is_found():
    gained, possible = [], []
    for seed in range(20):
        which, bits, errors = candidates(6, seed)
        start = np.arange(6) * WIDTHS + 1
        before = noise(errors, start)
        better = noise(errors, improve(which, bits, errors, start, 0.0))
        gained.append(np.log(before / better))
        possible.append(np.log(before / quietest(which, bits, errors, bits[start].sum())))
    assert sum(gained) > 0.6 * sum(possible)


def test_spare_bits_are_spent():
    which, bits, errors = candidates(4, 1)
    start = np.arange(4) * WIDTHS
    errors = np.abs(errors)  # all agree, so that every bit helps
    better = improve(which, bits, errors, start, 1e9)
    assert (better == start + WIDTHS - 1).all()


def test_errors_that_cancel_are_left_alone():
    """A knapsack of powers would take the larger errors away; together they are silent."""
    which, bits = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 1.0, 2.0])
    errors = np.array([[1.0, 0.0], [0.1, 0.0], [-1.0, 0.0], [0.1, 0.0]])
    assert improve(which, bits, errors, np.array([0, 2]), 1.0).tolist() == [0, 2]
