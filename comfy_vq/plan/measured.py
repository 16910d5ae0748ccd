"""Plans from what coding really does to a network's output.

Each layer is coded by itself and the network asked how much that shows; an exact knapsack over all widths
makes plans of these sensitivities. Layers that are coded under moments do not have the errors of Gaussian weights,
so they are tried again at the widths that such a plan gives them, and planned anew. Since predictions have
been wrong before, all plans and the table's are compared as a whole, on questions of their own, and the best is
taken.

Errors of layers are taken as independent. Adding them up as the vectors that they are predicts the noise of
given codes better, but codes of another effort have other errors: plans made by that were worse in the end.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import codecs
from ..probe import Probe
from .allocate import allocate
from .layers import Choice
from .plan import Plan
from .task import TOLERANCE, Task, nmse_of

EFFORT = "fast"
"""Of the codes that are tried: a layer's share of the noise hardly depends on it."""
_SHARES = (0.0, 0.1)
"""Of the layers' geometric mean, added to the sensitivity of each; a plan is made with each of these. A few
questions cannot show that a layer never matters, in another size for instance."""
_ROUNDS = 3
"""Of planning, and trying layers under moments at the widths that they got."""
_HELD_BYTES = 3 << 30
"""Of codes that are kept for when a layer takes an option again."""

Read = Callable[[str], Tensor]
"""A layer's dense weight by name."""

Moments = Callable[[str], Tensor | None]
"""Second moments under which a layer will be coded, by name; see ``codecs.encode``."""

OnLayer = Callable[[int, int, float | None], None]
"""Told how many layers were tried and will be in all, and the seconds left once that is known; may raise to
stop. A layer counts again in each plan that is compared."""


@dataclass
class _Trials:
    """Codes layers one at a time, and asks what that does to the output."""

    task: Task
    read: Read
    probe: Probe
    moments: Moments
    seed: int
    on_layer: OnLayer
    total: int
    done: int = 0
    held: dict[tuple[int, int], codecs.VQWeight] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def noise(self, row: int, option: int) -> float:
        """What one layer, coded by an option, adds to the output."""
        name, found = self.task.layers[row].name, self.coded(row, option)
        noise = 0.0
        if found is not None:
            self.probe.exchange(name, found)
            noise = self.probe.noise()
            self.probe.exchange(name, None)
        self.count(1)
        return noise

    def verified(self, chosen: np.ndarray) -> float:
        """What a whole allocation adds, on questions that no single layer was asked."""
        for row, option in enumerate(chosen.tolist()):
            found = self.coded(row, option)
            if found is not None:
                self.probe.exchange(self.task.layers[row].name, found)
            self.count(1)
        noise = self.probe.held_out_noise()
        for layer in self.task.layers:
            self.probe.exchange(layer.name, None)
        return noise

    def coded(self, row: int, option: int) -> codecs.VQWeight | None:
        """A layer coded by an option; None where that leaves it as it is."""
        if (row, option) in self.held:
            return self.held[row, option]
        choice = self.task.choice(row, option)
        name = self.task.layers[row].name
        found = coded(
            self.read(name), choice, self.seed, self.moments(name), lambda weights: self.count(0)
        )
        if found is not None and sum(w.nbytes for w in self.held.values()) < _HELD_BYTES:
            self.held[row, option] = found
        return found

    def count(self, layers: int) -> None:
        self.done += layers
        left = None
        if self.done:
            each = (time.monotonic() - self.started) / self.done
            left = (self.total - self.done) * each
        self.on_layer(self.done, self.total, left)


@dataclass(frozen=True, eq=False)
class _Judged:
    """An allocation, the task that it was made of, and the noise that it was found to add."""

    noise: float
    task: Task
    chosen: np.ndarray


def measured_plan(
    task: Task,
    table: Plan,
    read: Read,
    probe: Probe,
    *,
    moments: Moments = lambda layer: None,
    seed: int = 0,
    on_layer: OnLayer = lambda done, total, left: None,
) -> Plan:
    """The best of some plans by what coding each layer does to the output, and of the table's.

    Args:
        task: what is to be planned.
        table: a plan of this task by other means.
        read: a layer's dense weight.
        probe: of the very model, whose layers include those of the task.
        moments: see ``Moments``.
        seed: of the codes.
        on_layer: see ``OnLayer``.

    Returns:
        A plan whose measured noise, at effort ``EFFORT``, is at most the table's. ``sqnr_db`` is as
        measured, ``sensitivity_db`` holds what the layers were found to be.
    """
    rows = [row for row in range(len(task.layers)) if len(_columns(task, row)) > 1]
    again = [row for row in rows if moments(task.layers[row].name) is not None]
    later = _ROUNDS - 1 if again else 0
    verified = 1 + len(_SHARES) * (1 + later)
    total = len(rows) + later * len(again) + verified * len(task.layers)
    trials = _Trials(task, read, probe, moments, seed, on_layer, total)

    def judged(informed: Task, chosen: np.ndarray) -> _Judged:
        return _Judged(trials.verified(chosen), informed, chosen)

    seen: dict[int, dict[int, float]] = {row: {} for row in rows}
    wanted, found = {row: _usual(task, row) for row in rows}, list[_Judged]()
    for number in range(1 + later):
        for row, option in wanted.items():
            seen[row][option] = trials.noise(row, option)
        if number:  # as many were announced
            trials.count(len(again) - len(wanted))
        informed = [_informed(task, seen, share) for share in _SHARES]
        plans = [judged(t, allocate(t.options, t.budget, TOLERANCE * t.numel)) for t in informed]
        found += plans
        chosen = min(plans, key=lambda plan: plan.noise).chosen.tolist()
        wanted = {row: chosen[row] for row in again if chosen[row] < len(task.widths)}
        wanted = {row: option for row, option in wanted.items() if option not in seen[row]}
        if not wanted:
            break
    found.append(judged(found[-1].task, task.allocation(table.choices)))
    on_layer(total, total, 0.0)
    best = min(found, key=lambda plan: plan.noise)
    return best.task.plan(best.chosen, -10 * math.log10(best.noise) if best.noise > 0 else None)


def coded(
    weight: Tensor,
    choice: Choice,
    seed: int,
    moments: Tensor | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> codecs.VQWeight | None:
    """A weight coded by a choice; None where it stays dense."""
    if choice.codec is None:
        return None
    options: dict[str, Any] = {} if choice.codec == "int8" else {"unbiased": True}
    if choice.codec == "additive":
        options["own_codebooks"] = False
    if choice.codec != "int8" and moments is not None:
        options["moments"] = moments
    try:
        return codecs.encode(
            weight,
            choice.bits,
            choice.codec,
            EFFORT,
            seed=seed,
            on_progress=on_progress,
            **options,
        )
    except codecs.ScaleRangeError:
        return None
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage] - moments of no input
        return coded(weight, choice, seed, None, on_progress)


def _columns(task: Task, row: int) -> list[int]:
    """Options of a layer, the smallest first."""
    bits = task.options.bits[row]
    return sorted(np.flatnonzero(np.isfinite(bits)).tolist(), key=lambda column: bits[column])


def _usual(task: Task, row: int) -> int:
    """The option of about the average's width."""
    columns = [c for c in _columns(task, row) if c < len(task.widths)]
    return min(columns, key=lambda c: abs(task.widths[c].bits - max(2, round(task.target))))


def _informed(task: Task, seen: Mapping[int, Mapping[int, float]], share: float) -> Task:
    """The task with measured sensitivities, and a share of their mean, in the place of the table's.

    Args:
        seen: output noise by row and option, that of about the average's width among them.
    """
    nmse = nmse_of(task.widths)
    usual = {row: _usual(task, row) for row in seen}
    found = {row: seen[row][option] / nmse[option] for row, option in usual.items()}
    shown = [sensitivity for sensitivity in found.values() if sensitivity > 0]
    if not shown:
        return task
    least = share * statistics.geometric_mean(shown)
    noise, decibels = task.options.noise.copy(), {}
    for row, sensitivity in found.items():
        noise[row] = (_between(seen[row], nmse) + least) * nmse
        if sensitivity + least > 0:
            decibels[task.layers[row].name] = round(10 * math.log10(sensitivity + least), 2)
    return replace(task, options=replace(task.options, noise=noise), sensitivity_db=decibels)


def _between(noises: Mapping[int, float], nmse: np.ndarray) -> np.ndarray:
    """Output noise per unit of weight NMSE, by option: between the tried ones on a line over log NMSE, both
    in decibels, and beyond them as the nearest."""
    tried = sorted(noises, key=lambda option: nmse[option])
    found = np.array([noises[option] / nmse[option] for option in tried])
    tiny = np.finfo(np.float64).tiny
    x, y = np.log(np.maximum(nmse, tiny)), np.log(np.maximum(found, tiny))
    return np.exp(np.interp(x, x[tried], y))
