"""Plans of VQ files, for other models of the same layers: every VQ file is a saved plan."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoint, codecs
from .errors import VQError
from .plan import TOLERANCE, Choice, Plan, Task
from .quantize import WeightSource, task_for


@dataclass(frozen=True)
class SavedPlan:
    """What a VQ file says about its plan.

    Attributes:
        path: of the file.
        bits: average over all weights.
        codec: that its layers are coded by.
        choices, shapes: by coded layer.
        sensitivity_db: by layer, where they were measured; see ``Plan``.
    """

    path: Path
    bits: float
    codec: str
    choices: Mapping[str, Choice]
    shapes: Mapping[str, tuple[int, ...]]
    sensitivity_db: Mapping[str, float]

    def plan_for(self, weights: WeightSource, bits: float, **how: Any) -> Plan:
        """The same widths for the layers of another model; at another average, by the same sensitivities.

        Args:
            weights, bits, how: as of ``quantize.task_for``, but for the codec, which is the file's.

        Raises:
            VQError: the file has a layer that the model lacks, or of another shape; or it has other
                ``bits`` and no measured sensitivities; and what ``task_for`` raises.
        """
        how = {**how, "codec": self.codec, "sensitivity_db": self.sensitivity_db}
        task = task_for(weights, bits, **how)
        self._check(task)
        if abs(bits - self.bits) <= TOLERANCE:
            return task.plan(task.allocation(self.choices), None)
        if not self.sensitivity_db:
            raise VQError(
                f"{self.path}: field bits: found a plan of {self.bits:.2f} bits per weight, expected {bits:g}; "
                f"ask for {self.bits:.2f}, or take the plan of a file that was planned by measuring"
            )
        return task.solve()

    def _check(self, task: Task) -> None:
        shapes = {layer.name: layer.shape for layer in task.layers}
        for name, shape in self.shapes.items():
            if shapes.get(name) != shape:
                found = f"shape {list(shape)}"
                expected = f"{list(shapes[name])}" if name in shapes else "no such layer"
                raise VQError(
                    f"{self.path}: layer {name}: found {found}, expected {expected}, as in the model that "
                    "is to be quantized; take the plan of a model of the same architecture"
                )


def saved_plan(path: str | os.PathLike[str]) -> SavedPlan:
    """The plan of a VQ file, from its header. Raises VQError if it is none."""
    header = checkpoint.inspect(path)
    specs = {name: header.spec(name) for name in header.layers}
    choices = {name: Choice(spec.codec, getattr(spec, "bits", 8)) for name, spec in specs.items()}
    used = {choice.codec for choice in choices.values()}
    found = header.plan.get("sensitivity_db")
    return SavedPlan(
        Path(path),
        header.bits_per_weight,
        next((codec for codec in reversed(codecs.CODECS) if codec in used), codecs.CODECS[0]),
        choices,
        {name: tuple(layer.shape) for name, layer in header.layers.items()},
        _numbers(found) if isinstance(found, dict) else {},
    )


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if type(value) in (int, float)}
