"""How far a quantization is, and how long it will take."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from .plan import Choice, Plan


@dataclass(frozen=True)
class Progress:
    """How far a quantization is.

    Attributes:
        done, total: work done and in all; see ``work_per_weight``.
        layer: that is being coded.
        seconds_left: by what each width has taken so far; None during the first second.
    """

    done: float
    total: float
    layer: str
    seconds_left: float | None


OnProgress = Callable[[Progress], None]
"""Called a few times a second and at the end; what it raises ends the quantization."""

_REPORT_SECONDS = 0.1


def work_per_weight(choice: Choice) -> float:
    """Roughly what coding a weight costs, in searches of a codebook at full beam.

    The first codebook has no beam to look at yet, and of the last only the best entry is sought.
    A path through a trellis takes as long at any number of bits.
    """
    return {"additive": choice.bits - 0.75, "trellis": 8.0}.get(choice.codec or "", 0.02)


class Clock:
    """Turns weights done into reports.

    What a width costs depends on the effort and the device, so each is timed by itself; those that
    have not had their turn yet are judged by ``work_per_weight`` and those that have.
    """

    def __init__(self, plan: Plan, report: OnProgress | None) -> None:
        self._report = report
        self._left: dict[Choice, float] = defaultdict(float)
        for layer in plan.layers:
            self._left[plan.choices[layer.name]] += layer.numel
        self._total = self._work_left()
        self._seconds: dict[Choice, float] = defaultdict(float)
        self._weights: dict[Choice, float] = defaultdict(float)
        self._choice = Choice(None, 0)
        self._layer = ""
        self._started = self._now = time.monotonic()
        self._reported = -math.inf

    def start(self, layer: str, choice: Choice | None) -> None:
        """A layer is about to be read and coded; None for tensors that no plan is about."""
        self.advance(0)
        self._layer, self._choice = layer, choice or Choice(None, 0)

    def advance(self, weights: float) -> None:
        """So many more weights of the layer are coded."""
        before, self._now = self._now, time.monotonic()
        self._seconds[self._choice] += self._now - before
        self._weights[self._choice] += weights
        self._left[self._choice] -= weights
        if self._report is not None and self._now >= self._reported + _REPORT_SECONDS:
            self._reported = self._now
            left = self._seconds_left() if self._now > self._started + 1 else None
            done = self._total - self._work_left()
            self._report(Progress(done, self._total, self._layer, left))

    def finish(self) -> None:
        if self._report is not None:
            self._report(Progress(self._total, self._total, self._layer, 0.0))

    def _work_left(self) -> float:
        return sum(max(0.0, left) * work_per_weight(c) for c, left in self._left.items())

    def _seconds_left(self) -> float | None:
        timed = [choice for choice, weights in self._weights.items() if weights > 0]
        work = sum(self._weights[choice] * work_per_weight(choice) for choice in timed)
        if not work:
            return None
        typical = sum(self._seconds[choice] for choice in timed) / work
        return sum(
            max(0.0, left)
            * (
                self._seconds[choice] / self._weights[choice]
                if choice in timed
                else typical * work_per_weight(choice)
            )
            for choice, left in self._left.items()
        )
