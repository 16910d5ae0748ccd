"""Plans: the choice for every layer of a model, at a requested average number of bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .layers import Choice, Layer


@dataclass(frozen=True)
class Plan:
    """What every layer becomes.

    Attributes:
        choices: by layer name, in the order of the layers.
        layers: the layers that it was made for.
        other_bits, other_numel: size of the tensors that are never coded.
        bits: predicted average over all weights of the model, everything stored counted: codes,
            scales, what stays dense, and each codebook set in use once.
        target: the average that was asked for.
        family: whose sensitivities were used.
        sqnr_db: SQNR of the model's output: as measured (see ``measured``), or predicted, noise of
            layers taken as independent; None where the family's sensitivities are relative only.
        sensitivity_db: by layer, where they were measured on this very model: output noise per unit
            of weight NMSE.
    """

    choices: dict[str, Choice]
    layers: tuple[Layer, ...]
    other_bits: int
    other_numel: int
    bits: float
    target: float
    family: str
    sqnr_db: float | None
    sensitivity_db: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """A few JSON values for a file's header."""
        weights: Counter[str] = Counter()
        for layer in self.layers:
            weights[str(self.choices[layer.name])] += layer.numel
        return {
            "target": self.target,
            "bits": round(self.bits, 4),
            "family": self.family,
            "weights": dict(sorted(weights.items())),
            **({} if self.sqnr_db is None else {"predicted_sqnr_db": round(self.sqnr_db, 2)}),
            **({"sensitivity_db": dict(self.sensitivity_db)} if self.sensitivity_db else {}),
        }
