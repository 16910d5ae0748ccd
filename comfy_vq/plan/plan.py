"""Plans: the choice for every layer of a model, at a requested average number of bits."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np

from .. import codecs
from ..errors import VQError
from . import report
from .allocate import Options, allocate, reachable
from .families import detect_family
from .layers import Choice, Layer
from .sensitivity import is_absolute, sensitivities

TOLERANCE = 0.02
"""How far from the target a plan may end, in bits per weight."""
TINY = 4096
"""Layers of fewer weights stay dense while the target allows it: they weigh nothing and are
slower to decode than to read."""
_GRID_BITS = 64  # a set's step and offset, two float32


Widths = tuple[codecs.Width, ...]


class UnreachableError(VQError):
    """No plan brings this model to this number of bits."""


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
        sqnr_db: predicted SQNR of the model's output, noise of layers taken as independent; None
            where the family's sensitivities are relative only.
    """

    choices: dict[str, Choice]
    layers: tuple[Layer, ...]
    other_bits: int
    other_numel: int
    bits: float
    target: float
    family: str
    sqnr_db: float | None

    def table(self) -> str:
        """The plan as text: a line per role of layers, then totals."""
        return report.table(self)

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
        }


def make_plan(
    layers: Sequence[Layer],
    other_bits: int,
    other_numel: int,
    bits: float,
    *,
    family: str | None = None,
    exclude: Sequence[str] = (),
    codec: str = codecs.CODECS[0],
    effort: str = "balanced",
) -> Plan:
    """Choose a codec and width, or none, for every layer.

    Args:
        layers: weights that may be coded.
        other_bits, other_numel: summed size of all tensors that are never coded.
        bits: wanted average per weight over ``layers`` and the others, everything counted.
        family: one of ``FAMILIES``; None to detect it from names and shapes.
        exclude: layers to leave dense: glob patterns of whole names, or parts of names.
        codec: one of ``codecs.CODECS``; see ``codecs.widths_of``.
        effort: of the encoding, which sets may depend on.

    Raises:
        VQError: no layers; a bad ``bits``; an unknown family or codec; an exclude that matches no layer; a
            target that cannot be met (UnreachableError), with the range that can.
    """
    layers, widths = tuple(layers), codecs.widths_of(codec)
    if not layers:
        raise VQError("found no layer that can be coded, expected at least one weight matrix")
    if not (isinstance(bits, int | float) and math.isfinite(bits) and bits > 0):
        raise VQError(f"bits: found {bits!r}, expected a positive number of bits per weight")
    set_bits = _set_bits(widths, effort)
    family = family or detect_family({layer.name: layer.shape for layer in layers})
    excluded = _excluded([layer.name for layer in layers], exclude)
    weights = sum(layer.numel for layer in layers) + other_numel
    noise_per_nmse = sensitivities(layers, family)
    budget = bits * weights - other_bits
    options = _options(layers, widths, set_bits, noise_per_nmse, excluded, keep_tiny=True)
    if reachable(options)[0] > budget:
        options = _options(layers, widths, set_bits, noise_per_nmse, excluded, keep_tiny=False)
    low, high = ((end + other_bits) / weights for end in reachable(options))
    if not low - TOLERANCE <= bits <= high + TOLERANCE:
        raise UnreachableError(
            f"bits: found {bits:g}, but this model can be brought to {_ceil(low):.2f} to "
            f"{_floor(high):.2f} bits per weight{_dense_share(layers, excluded, other_bits, weights)}"
            "; choose a number in that range"
        )
    chosen = allocate(options, budget, TOLERANCE * weights)
    reached = (options.total_bits(chosen) + other_bits) / weights
    if abs(reached - bits) > TOLERANCE:
        raise UnreachableError(
            f"bits: found {bits:g}, which no mix of widths meets within {TOLERANCE} for so few "
            f"layers; the nearest is {reached:.2f} in the range {_ceil(low):.2f} to "
            f"{_floor(high):.2f}; choose that"
        )
    noise = options.total_noise(chosen)
    return Plan(
        {
            layer.name: _choice(widths, option, layer)
            for layer, option in zip(layers, chosen.tolist(), strict=True)
        },
        layers,
        other_bits,
        other_numel,
        reached,
        float(bits),
        family,
        -10 * math.log10(noise) if noise > 0 and is_absolute(family) else None,
    )


def _choice(widths: Widths, option: int, layer: Layer) -> Choice:
    if option == len(widths):
        return Choice(None, layer.itemsize_bits)
    return Choice(widths[option].codec, widths[option].bits)


def _options(
    layers: Sequence[Layer],
    widths: Widths,
    set_bits: np.ndarray,
    sensitivity: np.ndarray,
    excluded: set[str],
    *,
    keep_tiny: bool,
) -> Options:
    """All widths, then dense, for every layer; excluded (and tiny) layers have only dense."""
    bits, dense = np.full((len(layers), len(widths) + 1), np.inf), len(widths)
    for row, layer in enumerate(layers):
        bits[row, dense] = layer.numel * layer.itemsize_bits
        if layer.name in excluded or (keep_tiny and layer.numel < TINY):
            continue
        for column, width in enumerate(widths):
            stored = _stored_bits(width.codec, width.bits, layer.shape)
            if stored < bits[row, dense]:
                bits[row, column] = stored
    # Least squares shrinks a weight by its NMSE d. The shrinking adds up over layers as noise does not,
    # so what counts is the noise of a weight brought back to full length: d / (1 - d).
    nmse = np.array([1 / (10 ** (width.sqnr_db / 10) - 1) for width in widths] + [0.0])
    return Options(bits, sensitivity[:, None] * nmse, set_bits)


@cache
def _stored_bits(codec: str, bits: int, shape: tuple[int, ...]) -> float:
    """Bits of a layer's own pieces; inf where the codec cannot take the shape."""
    if not codecs.get(codec).supports(shape):
        return math.inf
    return codecs.stored_bits(codecs.spec_for(codec, bits, shape), shape)


@cache
def _set_bits(widths: Widths, effort: str) -> np.ndarray:
    """Bits of each width's shared codebook set; 0 where it has none."""
    sizes = []
    for width in widths:
        codec = codecs.get(width.codec)
        shape = codec.codebook_shape(codec.spec_for(width.bits, (8, 8), effort=effort))
        sizes.append(0 if shape is None else 8 * math.prod(shape) + _GRID_BITS)
    return np.array([*sizes, 0], dtype=np.float64)


def _excluded(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for given in patterns:
        pattern = given.strip().removeprefix("model.diffusion_model.").removesuffix(".weight")
        if not pattern:
            continue
        if any(c in pattern for c in "*?["):
            matches = {name for name in names if fnmatchcase(name, pattern)}
        else:
            matches = {name for name in names if pattern in name}
        if not matches:
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
            raise VQError(
                f"exclude: found {given!r}, which names no layer that can be coded, expected part "
                f"of a name or a glob of whole names; close names: {', '.join(close)}"
            )
        found |= matches
    return found


def _dense_share(layers: Sequence[Layer], excluded: set[str], other_bits: int, weights: int) -> str:
    """How much of the average is not up for choice, for the error message."""
    kept = sum(layer.numel * layer.itemsize_bits for layer in layers if layer.name in excluded)
    return f" ({(kept + other_bits) / weights:.2f} of them excluded or never coded)"


def _ceil(bits: float) -> float:
    return math.ceil(bits * 100) / 100


def _floor(bits: float) -> float:
    return math.floor(bits * 100) / 100
