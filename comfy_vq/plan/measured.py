"""Plans from what coding really does to a network's output.

Three steps, each with forward passes of the network: one per layer for how much it shows in the
output, from which a knapsack makes a first plan; two more per layer for the errors of the widths
around it, as vectors, from which ``superposed`` makes a better one; and one for each plan as a whole,
on questions of their own, since predictions have been wrong before. The table's plan stands among
them, so that none is worse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import codecs
from ..probe import Probe
from .allocate import Options, allocate
from .layers import Choice
from .plan import Plan
from .superposed import improve
from .task import TOLERANCE, Task

EFFORT = "fast"
"""Of the codes that are tried: a layer's share of the noise hardly depends on it."""
_ROUNDS = 3
_FORWARDS = 4
"""Evaluations of a layer to be expected: at its first width, at those around the plan's, at some more later."""
_HELD_BYTES = 3 << 30
"""Of codes that are kept for when a layer takes an option again."""

Read = Callable[[str], Tensor]
"""A layer's dense weight by name."""

Moments = Callable[[str], Tensor | None]
"""Second moments under which a layer will be coded, by name; see ``codecs.encode``."""

OnForward = Callable[[int, int, float | None], None]
"""Told forward passes done and in all, and the seconds left once that is known; may raise to stop."""


@dataclass
class _Trials:
    """Codes layers one at a time, and keeps what that does to the output."""

    task: Task
    read: Read
    probe: Probe
    moments: Moments
    seed: int
    on_forward: OnForward
    total: int
    done: int = 0
    errors: dict[tuple[int, int], np.ndarray | None] = field(default_factory=dict)
    held: dict[tuple[int, int], codecs.VQWeight] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def error(self, row: int, option: int) -> np.ndarray | None:
        """What one layer, coded by an option, changes in the output; None for nothing."""
        if (row, option) not in self.errors:
            name, found = self.task.layers[row].name, self.coded(row, option)
            self.errors[row, option] = None
            if found is not None:
                self.probe.exchange(name, found)
                self.errors[row, option] = self.probe.error().numpy()
                self.probe.exchange(name, None)
        self.count(1)
        return self.errors[row, option]

    def noise(self, chosen: np.ndarray) -> float:
        """What a whole allocation changes, on questions that no single layer was asked."""
        for row, option in enumerate(chosen.tolist()):
            found = self.coded(row, option)
            if found is not None:
                self.probe.exchange(self.task.layers[row].name, found)
            self.count(0)
        noise = self.probe.noise()
        for layer in self.task.layers:
            self.probe.exchange(layer.name, None)
        self.count(1)
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

    def count(self, forwards: int) -> None:
        self.done += forwards
        left = None
        if self.done:
            each = (time.monotonic() - self.started) / self.done
            left = max(0, self.total - self.done) * each
        self.on_forward(self.done, max(self.total, self.done), left)


def measured_plan(
    task: Task,
    table: Plan,
    read: Read,
    probe: Probe,
    *,
    moments: Moments = lambda layer: None,
    seed: int = 0,
    on_forward: OnForward = lambda done, total, left: None,
) -> Plan:
    """The plan of least output noise that was found by measuring.

    Args:
        task: what is to be planned.
        table: a plan of this task by other means.
        read: a layer's dense weight.
        probe: of the very model, whose layers include those of the task.
        moments: see ``Moments``.
        seed: of the codes.
        on_forward: see ``OnForward``.

    Returns:
        A plan whose measured noise, at effort ``EFFORT``, is at most the table's. ``sqnr_db`` is as
        measured, ``sensitivity_db`` holds what the layers were found to be.
    """
    rows = [row for row in range(len(task.layers)) if len(_columns(task, row)) > 1]
    trials = _Trials(task, read, probe, moments, seed, on_forward, _FORWARDS * len(rows))
    found = _sensitivities(trials, rows)
    task = replace(task, options=_scaled(task, found), sensitivity_db=_decibels(task, found))
    by_powers = allocate(task.options, task.budget, TOLERANCE * task.numel)
    plans = [
        (trials.noise(chosen), chosen) for chosen in (task.allocation(table.choices), by_powers)
    ]
    noise, best = min(plans, key=lambda plan: plan[0])
    for _ in range(_ROUNDS):
        chosen = _by_vectors(trials, rows, best)
        if (chosen == best).all():
            break
        again = trials.noise(chosen)
        if again >= noise:
            break
        noise, best = again, chosen
    on_forward(trials.done, trials.done, 0.0)
    return task.plan(best, -10 * math.log10(noise) if noise > 0 else None)


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


def _sensitivities(trials: _Trials, rows: list[int]) -> dict[int, float]:
    """Output noise per unit of weight NMSE, from the option of about the average's width."""
    task, found, nmse = trials.task, {}, _nmse(trials.task)
    for row in rows:
        columns = [c for c in _columns(task, row) if c < len(task.widths)]
        option = min(columns, key=lambda c: abs(task.widths[c].bits - max(2, round(task.target))))
        error = trials.error(row, option)
        if error is not None and error.any():
            found[row] = float(np.square(error).sum()) / nmse[option]
    return found


def _nmse(task: Task) -> np.ndarray:
    """Of unbiased codes of Gaussian weights, by option."""
    return np.array([1 / (10 ** (width.sqnr_db / 10) - 1) for width in task.widths] + [0.0])


def _scaled(task: Task, found: dict[int, float]) -> Options:
    """The task's options with measured sensitivities in the place of the table's."""
    nmse = _nmse(task)
    noise = task.options.noise.copy()
    for row, sensitivity in found.items():
        noise[row] = sensitivity * nmse
    return replace(task.options, noise=noise)


def _decibels(task: Task, found: dict[int, float]) -> dict[str, float]:
    return {task.layers[row].name: round(10 * math.log10(s), 2) for row, s in found.items()}


def _by_vectors(trials: _Trials, rows: list[int], chosen: np.ndarray) -> np.ndarray:
    """A better allocation near one: every layer may move to the next width, up or down."""
    task = trials.task
    candidates: list[tuple[int, int]] = []
    for row in rows:
        columns = _columns(task, row)
        at = columns.index(int(chosen[row]))
        candidates += [(row, column) for column in columns[max(0, at - 1) : at + 2]]
    found = [trials.error(*candidate) for candidate in candidates]
    nothing = np.zeros(max(len(error) for error in found if error is not None))
    errors = np.stack([nothing if error is None else error for error in found])
    index = {candidate: i for i, candidate in enumerate(candidates)}
    picked = np.array([index[row, int(chosen[row])] for row in rows])
    place = {row: i for i, row in enumerate(rows)}
    layers = np.array([place[row] for row, _ in candidates])
    bits = np.array([task.options.bits[candidate] for candidate in candidates])
    spare = max(0.0, task.budget - task.options.total_bits(chosen))
    better = chosen.copy()
    for i in improve(layers, bits, errors, picked, spare):
        better[candidates[i][0]] = candidates[i][1]
    if task.options.total_bits(better) > task.budget + TOLERANCE * task.numel:
        return chosen  # it needs a codebook set for which there is no room
    return better
