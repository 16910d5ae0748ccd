"""Figures with 95 % confidence intervals over prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies with a confidence of 95 %.

    Attributes:
        low, high: None where there is one prompt only, or the figure is infinite.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def margin(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean over prompts."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return Interval(mean)
    return Interval(mean, *_bootstrap((np.array(values),), lambda x, axis: x.mean(axis)))


def sqnr_interval(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> Interval:
    """SQNR in dB of sums over prompts: ``10 log10(sum signal / sum noise)``.

    Args:
        signal, noise: powers ``[prompts]`` of the reference and of the difference.
    """
    value = _db(noise.sum() / signal.sum())
    if len(signal) < 2 or not math.isfinite(value):
        return Interval(value)
    low, high = _bootstrap(
        (noise, signal), lambda noise, signal, axis: noise.sum(axis) / signal.sum(axis)
    )
    return Interval(value, _db(high), _db(low))


def _bootstrap(samples: Sequence[NDArray[np.float64]], statistic: Any) -> tuple[float, float]:
    from scipy.stats import bootstrap

    found = bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        # Releases before 1.15 know it by no other name.
        random_state=np.random.default_rng(_SEED),  # pyright: ignore[reportCallIssue]
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _db(noise_to_signal: float) -> float:
    return math.inf if noise_to_signal == 0 else -10 * math.log10(noise_to_signal)
