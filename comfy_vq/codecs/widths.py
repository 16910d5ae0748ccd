"""The widths that a plan may choose from, with what each is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import registry
from .codebooks import gaussian_sqnr_db


@dataclass(frozen=True)
class Width:
    """A codec at a number of bits.

    Attributes:
        codec, bits: as ``encode`` takes them.
        sqnr_db: SQNR on i.i.d. Gaussian weights.
    """

    codec: str
    bits: int
    sqnr_db: float


WIDTHS = tuple(
    Width(*key, sqnr_db)
    for key, sqnr_db in sorted(gaussian_sqnr_db().items())
    if key[0] != "trellis"
)


def spec_for(codec: str, bits: int, shape: tuple[int, ...], seed: int = 0) -> Any:
    """The specification that ``encode`` chooses for a shape without looking at the weight."""
    return registry.get(codec).spec_for(bits, shape, seed)
