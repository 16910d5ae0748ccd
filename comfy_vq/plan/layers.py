"""What a plan is about: layers, and what each may become."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A weight that may be coded.

    Attributes:
        name: checkpoint key without prefix and without ``.weight``.
        shape: ``[out, in]`` or ``[out, in, *kernel]``.
        itemsize_bits: bits per weight if it is left dense.
    """

    name: str
    shape: tuple[int, ...]
    itemsize_bits: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Choice:
    """What a layer becomes.

    Attributes:
        codec: registry name, or None for dense.
        bits: as ``codecs.encode`` takes them; bits per weight of the source where dense.
    """

    codec: str | None
    bits: int

    def __str__(self) -> str:
        return f"{self.codec or 'dense'}-{self.bits}"
