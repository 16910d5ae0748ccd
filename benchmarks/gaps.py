"""How far one model is ahead of another on the same prompts, in dB, with an interval of its own.

Prompts that are hard are hard for both, so that a difference is known better than either figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from comfy_vq.evaluation.bench import Bench, Recording
from comfy_vq.evaluation.intervals import Interval, sqnr_interval

Noises = Mapping[str, NDArray[np.float64]]


class Observed:
    """A bench that keeps the power of each candidate's error, prompt by prompt.

    Attributes:
        noises: float64 ``[prompts]``, summed over recorded steps, by file.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._loaded: Path | None = None
        self.noises: dict[Path, NDArray[np.float64]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bench, name)

    def load(self, path: Path) -> Any:
        self._loaded = path
        return self._bench.load(path)

    def floor(self, model: Any) -> Any | None:
        self._loaded = None
        return self._bench.floor(model)

    def predict(self, model: Any, recording: Recording) -> Tensor:
        predicted = self._bench.predict(model, recording)
        if self._loaded is not None and predicted.shape == recording.noise.shape:
            error = (recording.noise - predicted).double()
            self.noises[self._loaded] = error.flatten(2).square().sum((0, 2)).numpy()
        return predicted


def gap_db(noises: Noises, ours: str, theirs: str) -> Interval:
    """How much less noise ours has, in dB; positive is better."""
    return sqnr_interval(noises[theirs], noises[ours])


def gap_table(noises: Noises, ours: Sequence[str], theirs: Sequence[str]) -> str:
    """Markdown: a row for each of ours, a column for each of theirs; ± as in the report."""
    rows = [
        f"| {name} | {' | '.join(_cell(gap_db(noises, name, other)) for other in theirs)} |"
        for name in ours
    ]
    head = f"| dB over | {' | '.join(theirs)} |"
    return "\n".join([head, f"|---|{'---:|' * len(theirs)}", *rows])


def _cell(gap: Interval) -> str:
    margin = "" if gap.margin is None else f" ± {gap.margin:.1f}"
    return f"{gap.value:+.1f}{margin}"
