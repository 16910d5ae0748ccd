"""Second moments of inputs, and what a calibration is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codecs.weight import matrix_shape
from ..errors import VQError
from ..finite import is_finite

ADVICE = "calibrate the model that is quantized, or quantize without this calibration"


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what a layer multiplies its weight with: sums of ``x x^T`` over inputs.

    Attributes:
        sums: float32 ``[blocks, width, width]``, the blocks on the diagonal of the whole matrix, in
            the order of the columns of the coded weight (see ``codecs.weight.to_matrix``), which
            they repeat until they fill. There is one, which all taps of a convolution have in
            common; very wide inputs are cut into several.
        count: inputs summed over.
    """

    sums: Tensor
    count: int

    def mean(self) -> Tensor:
        """``E[x x^T]``, float32 ``[blocks, width, width]``, symmetric."""
        return (self.sums + self.sums.transpose(1, 2)) / (2 * max(1, self.count))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether these can be moments of a weight of ``shape``."""
        blocks, width = self.sums.shape[:2]
        columns = matrix_shape(shape)[1]
        period = blocks * width
        return columns % period == 0 and period % shape[1] == 0 and shape[1] % width == 0


@dataclass(frozen=True, eq=False)
class Calibration:
    """Moments of the layers of one model.

    Attributes:
        shapes: of the weights of all layers that were listened to, by name: the original checkpoint
            key without prefix and ``.weight``. They tell which model this is of.
        moments: by layer; those without any were never used. Layers that always had the same input
            share one object.
        pictures: sampled.
    """

    shapes: Mapping[str, tuple[int, ...]]
    moments: Mapping[str, Moments]
    pictures: int

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise VQError unless a model of these layers, or more, is what this was made on."""
        for name, shape in self.shapes.items():
            found = shapes.get(name)
            if found != shape:
                there = "no such layer" if found is None else f"a weight of shape {list(found)}"
                raise VQError(
                    f"calibration, layer {name}: found {there} in the model, expected one of shape "
                    f"{list(shape)}, as it was calibrated; {ADVICE}"
                )

    def continues(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise VQError unless sampling a model of just these layers may continue this."""
        self.check(shapes)
        for name in shapes.keys() - self.shapes.keys():
            raise VQError(
                f"calibration, layer {name}: found it in the model only, expected a calibration of "
                "this model; continue with the model that was calibrated, or begin anew"
            )

    def merged(self, other: Calibration) -> Calibration:
        """Both together.

        Raises:
            VQError: the other is of another model, or was collected another way.
        """
        self.continues(other.shapes)
        made: dict[tuple[int, int], Moments] = {}
        moments = {}
        for name in self.shapes:
            one, another = self.moments.get(name), other.moments.get(name)
            if one is None and another is None:
                continue
            pair = id(one), id(another)
            if pair not in made:
                made[pair] = _sum(name, one, another)
            moments[name] = made[pair]
        return replace(self, moments=moments, pictures=self.pictures + other.pictures)

    def digest(self) -> str:
        """SHA-256 in hex of everything that decides how it changes an encoding."""
        digest = hashlib.sha256()
        for found, names in shared(self.moments):
            digest.update(f"{sorted(names)} {found.count} {list(found.sums.shape)}".encode())
            digest.update(memoryview(found.sums.contiguous().view(torch.uint8).numpy()))
        return digest.hexdigest()

    def describe(self) -> str:
        """What it holds, in a line or two."""
        pictures = "1 picture" if self.pictures == 1 else f"{self.pictures} pictures"
        nbytes = sum(found.sums.nbytes for found, _ in shared(self.moments))
        line = (
            f"{pictures}; {len(self.moments)} of {len(self.shapes)} layers; {nbytes / 1e6:.1f} MB"
        )
        silent = sorted(self.shapes.keys() - self.moments.keys())
        if not silent:
            return line
        return f"{line}\nnot heard, quantized without calibration: {', '.join(silent)}"

    def refuse_not_finite(self) -> None:
        """Raise VQError where an input held NaN or Inf, or its moments exceed float32."""
        for name, found in self.moments.items():
            if not is_finite(found.sums):
                raise VQError(
                    f"calibration, layer {name}: found NaN or Inf in its input, expected finite "
                    "values; sample a picture with these settings to see whether the model works, "
                    "or choose another precision"
                )


def shared(moments: Mapping[str, Moments]) -> list[tuple[Moments, list[str]]]:
    """The distinct moments with the layers that have them, in the order of the layers."""
    groups: dict[int, tuple[Moments, list[str]]] = {}
    for name, found in moments.items():
        groups.setdefault(id(found), (found, []))[1].append(name)
    return list(groups.values())


def _sum(name: str, one: Moments | None, other: Moments | None) -> Moments:
    if one is None or other is None:
        found = one or other
        assert found is not None
        return found
    if one.sums.shape != other.sums.shape:
        raise VQError(
            f"calibration, layer {name}: found moments of shape {list(other.sums.shape)}, expected "
            f"{list(one.sums.shape)}; calibrate both with the same version of comfy-vq"
        )
    return Moments(one.sums + other.sums, one.count + other.count)
