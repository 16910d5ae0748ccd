"""How much a layer's error shows in the model's output.

A layer's sensitivity is the noise power of the model's output, relative to the output's power, per
unit of the layer's relative weight error (NMSE). Coded with NMSE d, the layer adds sensitivity * d,
however many weights it has; its size counts in what its bits cost. Each file in ``tables/`` holds
sensitivities in dB by glob patterns of canonical layer names, of which the first that matches
decides, times the number of weights to the power of "size_exponent": 0 where layers were measured;
0.5 in rules of thumb, since small layers tend to be near the ends of a network and cost little.
Sums of the noise predict the output's SQNR where a table is marked as "absolute".
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VQError
from .families import canonical_names
from .layers import Layer

_TABLES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text("utf-8"))
    for path in sorted((Path(__file__).parent / "tables").glob("*.json"))
}
FAMILIES = tuple(_TABLES)


def sensitivities(layers: Sequence[Layer], family: str) -> np.ndarray:
    """Output noise per unit of weight NMSE, float64 ``[len(layers)]``.

    Raises VQError for a family without a table.
    """
    exponent = _table(family)["size_exponent"]
    names = canonical_names([layer.name for layer in layers])
    return np.array(
        [
            10 ** (_decibels(family, name) / 10) * layer.numel**exponent
            for name, layer in zip(names, layers, strict=True)
        ]
    )


def is_absolute(family: str) -> bool:
    """Whether sums of a family's noise predict output SQNR, and not just order choices."""
    return bool(_table(family).get("absolute"))


def _table(family: str) -> dict[str, Any]:
    if family not in _TABLES:
        raise VQError(
            f"family: found {family!r}, which has no sensitivities, expected one of "
            f"{', '.join(FAMILIES)}"
        )
    return _TABLES[family]


@cache
def _decibels(family: str, name: str) -> float:
    rules, default = _rules(family)
    return next((value for pattern, value in rules if pattern.match(name)), default)


@cache
def _rules(family: str) -> tuple[list[tuple[re.Pattern[str], float]], float]:
    """Patterns with values, those of the table that it extends last; and the default."""
    table = _table(family)
    rules = [(re.compile(fnmatch.translate(glob)), value) for glob, value in table["rules"]]
    if "extends" in table:
        inherited, default = _rules(table["extends"])
        return rules + inherited, table.get("default", default)
    return rules, table["default"]
