"""Making a plan: the options that each layer has, and which of them it takes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import numpy as np

from .. import codecs
from ..errors import VQError
from .allocate import Options, allocate, reachable
from .families import detect_family
from .layers import Choice, Layer
from .plan import Plan
from .sensitivity import is_absolute, sensitivities

TOLERANCE = 0.02
"""How far from the target a plan may end, in bits per weight."""
TINY = 4096
"""Layers of fewer weights stay dense while the target allows it: they weigh nothing and are
slower to decode than to read."""
_GROUPED = "additive"
_GRID_BITS = 64  # a set's step and offset, two float32


Widths = tuple[codecs.Width, ...]


class UnreachableError(VQError):
    """No plan brings this model to this number of bits."""


def make_plan(
    layers: Sequence[Layer], other_bits: int, other_numel: int, bits: float, **how: Any
) -> Plan:
    """Choose a codec and width, or none, for every layer: ``Task.of`` the same arguments, solved."""
    return Task.of(layers, other_bits, other_numel, bits, **how).solve()


@dataclass(frozen=True, eq=False)
class Task:
    """What a plan has to decide.

    Attributes:
        layers, other_bits, other_numel, target, family: see ``Plan``.
        widths: that a layer may take besides staying dense.
        options: a row per layer; a column per width, in their order, then one for dense.
        sensitivity_db: see ``of``.
    """

    layers: tuple[Layer, ...]
    other_bits: int
    other_numel: int
    target: float
    family: str
    widths: Widths
    options: Options
    sensitivity_db: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        other_bits: int,
        other_numel: int,
        bits: float,
        family: str | None = None,
        exclude: Sequence[str] = (),
        codec: str = codecs.CODECS[0],
        effort: str = "balanced",
        sensitivity_db: Mapping[str, float] | None = None,
        grouped: Collection[str] = (),
    ) -> Task:
        """A task; some of its layers may have one option alone.

        Args:
            layers: weights that may be coded.
            other_bits, other_numel: summed size of all tensors that are never coded.
            bits: wanted average per weight over ``layers`` and the others, everything counted.
            family: one of ``FAMILIES``; None to detect it from names and shapes.
            exclude: layers to leave dense: glob patterns of whole names, or parts of names.
            codec: one of ``codecs.CODECS``; see ``codecs.widths_of``.
            effort: of the encoding, which sets may depend on.
            sensitivity_db: by layer, instead of the family's; layers that it lacks have the family's.
            grouped: layers that are coded in groups, by ``additive``, whatever the codec.

        Raises:
            VQError: no layers; a bad ``bits``; an unknown family or codec; an exclude that matches no
                layer; a target that cannot be met (UnreachableError), with the range that can.
        """
        layers, own = tuple(layers), codecs.widths_of(codec)
        widths = own + _in_groups(own) if grouped else own
        if not layers:
            raise VQError("found no layer that can be coded, expected at least one weight matrix")
        if not (isinstance(bits, int | float) and math.isfinite(bits) and bits > 0):
            raise VQError(f"bits: found {bits!r}, expected a positive number of bits per weight")
        set_bits = _set_bits(widths, effort)
        family = family or detect_family({layer.name: layer.shape for layer in layers})
        excluded = _excluded([layer.name for layer in layers], exclude)
        noise_per_nmse = sensitivities(layers, family)
        known = sensitivity_db or {}
        for row, layer in enumerate(layers):
            if layer.name in known:
                noise_per_nmse[row] = 10 ** (known[layer.name] / 10)
        by_groups = [w for w in widths if w.codec != codec or codec == _GROUPED]
        barred = np.array(
            [
                [width not in (by_groups if layer.name in grouped else own) for width in widths]
                for layer in layers
            ]
        )
        how = layers, widths, barred, set_bits, noise_per_nmse, excluded
        rest = layers, other_bits, other_numel, float(bits), family, widths
        task = cls(*rest, _options(*how, keep_tiny=True), known)
        if reachable(task.options)[0] > task.budget:
            task = cls(*rest, _options(*how, keep_tiny=False), known)
        low, high = task.range()
        if not low - TOLERANCE <= bits <= high + TOLERANCE:
            raise UnreachableError(
                f"bits: found {bits:g}, but this model can be brought to {_ceil(low):.2f} to "
                f"{_floor(high):.2f} bits per weight{task.dense_share(excluded)}"
                "; choose a number in that range"
            )
        return task

    def solve(self) -> Plan:
        """The plan of least noise, that of layers taken as independent.

        Raises:
            UnreachableError: no mix of widths meets the target.
        """
        chosen = allocate(self.options, self.budget, TOLERANCE * self.numel)
        reached = self.average(chosen)
        if abs(reached - self.target) > TOLERANCE:
            low, high = self.range()
            raise UnreachableError(
                f"bits: found {self.target:g}, which no mix of widths meets within {TOLERANCE} for so few "
                f"layers; the nearest is {reached:.2f} in the range {_ceil(low):.2f} to "
                f"{_floor(high):.2f}; choose that"
            )
        noise = self.options.total_noise(chosen)
        known = is_absolute(self.family) or bool(self.sensitivity_db)
        return self.plan(chosen, -10 * math.log10(noise) if noise > 0 and known else None)

    @property
    def numel(self) -> int:
        """Weights of the whole model."""
        return sum(layer.numel for layer in self.layers) + self.other_numel

    @property
    def budget(self) -> float:
        """Bits for all layers and the sets that they use."""
        return self.target * self.numel - self.other_bits

    def range(self) -> tuple[float, float]:
        """The lowest and the highest average that there is."""
        low, high = reachable(self.options)
        return (low + self.other_bits) / self.numel, (high + self.other_bits) / self.numel

    def average(self, chosen: np.ndarray) -> float:
        """Bits per weight of an allocation (int ``[layers]``)."""
        return (self.options.total_bits(chosen) + self.other_bits) / self.numel

    def choice(self, row: int, option: int) -> Choice:
        """What an option means to a layer."""
        if option == len(self.widths):
            return Choice(None, self.layers[row].itemsize_bits)
        return Choice(self.widths[option].codec, self.widths[option].bits)

    def allocation(self, choices: Mapping[str, Choice]) -> np.ndarray:
        """Choices by layer as an allocation.

        Of a codec that a layer does not take here the same width of another one; a layer stays dense where
        there is none.
        """
        found = np.full(len(self.layers), len(self.widths))
        for row, layer in enumerate(self.layers):
            wanted = choices.get(layer.name)
            if wanted is None or wanted.codec is None:
                continue
            open_to = np.flatnonzero(
                np.isfinite(self.options.bits[row, : len(self.widths)])
            ).tolist()
            same = [option for option in open_to if self.choice(row, option) == wanted]
            alike = [option for option in open_to if self.widths[option].bits == wanted.bits]
            if same or alike:
                found[row] = (same or alike)[-1]
        return found

    def plan(self, chosen: np.ndarray, sqnr_db: float | None) -> Plan:
        """An allocation as a plan."""
        names = [layer.name for layer in self.layers]
        choices = [self.choice(row, option) for row, option in enumerate(chosen.tolist())]
        return Plan(
            dict(zip(names, choices, strict=True)),
            self.layers,
            self.other_bits,
            self.other_numel,
            self.average(chosen),
            self.target,
            self.family,
            sqnr_db,
            self.sensitivity_db,
        )

    def dense_share(self, excluded: set[str]) -> str:
        """How much of the average is not up for choice, for the error message."""
        kept = sum(lay.numel * lay.itemsize_bits for lay in self.layers if lay.name in excluded)
        share = (kept + self.other_bits) / self.numel
        return f" ({share:.2f} of them excluded or never coded)"


def _in_groups(own: Widths) -> Widths:
    """Those of the codec that goes by groups which are not among a codec's own.

    What goes by groups does so under moments, where it has less error than these are known for. So they
    pass for as good as the codec's own of as many bits, and layers get as many as they would by it.
    """
    decibels = {width.bits: width.sqnr_db for width in own}
    others = (width for width in codecs.widths_of(_GROUPED) if width not in own)
    return tuple(replace(w, sqnr_db=decibels.get(w.bits, w.sqnr_db)) for w in others)


def _options(
    layers: Sequence[Layer],
    widths: Widths,
    barred: np.ndarray,
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
            if stored < bits[row, dense] and not barred[row, column]:
                bits[row, column] = stored
    return Options(bits, sensitivity[:, None] * nmse_of(widths), set_bits)


def nmse_of(widths: Widths) -> np.ndarray:
    """Error of Gaussian weights relative to their power, float64: by width, then 0 for dense.

    Least squares shrinks a weight by its NMSE d. The shrinking adds up over layers as noise does not,
    so what counts is the noise of a weight brought back to full length: d / (1 - d).
    """
    return np.array([1 / (10 ** (width.sqnr_db / 10) - 1) for width in widths] + [0.0])


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


def _ceil(bits: float) -> float:
    return math.ceil(bits * 100) / 100


def _floor(bits: float) -> float:
    return math.floor(bits * 100) / 100
