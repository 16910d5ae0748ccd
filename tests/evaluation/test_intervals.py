"""Confidence intervals over prompts."""

import math

import numpy as np
import pytest

from comfy_vq.evaluation.intervals import Interval, mean_interval, sqnr_interval

RNG = np.random.default_rng(0)


def test_sums_are_pooled_before_they_are_divided():
    found = sqnr_interval(np.array([100.0, 900.0]), np.array([9.0, 1.0]))
    assert found.value == pytest.approx(20)
    assert (found.low, found.high) == pytest.approx(
        (10 * math.log10(100 / 9), 10 * math.log10(900))
    )


def test_mean_of_many_has_the_interval_of_the_normal_distribution():
    values = RNG.normal(5, 2, 400)
    found = mean_interval(values)
    assert found.value == pytest.approx(values.mean())
    assert found.margin == pytest.approx(1.96 * values.std() / 20, rel=0.05)
    assert found.low < found.value < found.high


def test_most_intervals_hold_the_truth():
    held = []
    for _ in range(100):
        signal = RNG.uniform(1, 2, 24)
        found = sqnr_interval(signal, 0.01 * signal * RNG.uniform(0.5, 1.5, 24))
        held.append(found.low < 20 < found.high)
    assert np.mean(held) > 0.85


def test_the_same_each_time():
    values = RNG.normal(size=10)
    assert mean_interval(values) == mean_interval(values)


@pytest.mark.parametrize(
    ("found", "value"),
    [
        (mean_interval([3.0]), 3.0),
        (mean_interval([3.0, math.inf]), math.inf),
        (sqnr_interval(np.array([10.0]), np.array([1.0])), 10.0),
        (sqnr_interval(np.ones(4), np.zeros(4)), math.inf),
    ],
)
def test_no_interval_of_one_prompt_or_without_error(found, value):
    assert found == Interval(pytest.approx(value)) and found.margin is None
