"""The widths that a plan may choose from, with what each is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import VQError
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


WIDTHS = tuple(Width(*key, sqnr_db) for key, sqnr_db in sorted(gaussian_sqnr_db().items()))

CODECS = ("additive", "trellis")
"""What a model may be coded by."""
AUTO = "auto"
"""Whichever measured best for an effort."""


def codec_of(asked: str, effort: str, calibrated: bool = False) -> str:
    """The codec that is meant by one of ``CODECS`` or ``AUTO``.

    ``trellis`` has less error at the same size, and takes a multiple of the time to find: of some three
    without a calibration, of ten and more under one (docs/codecs.md), where it has to be asked for.
    """
    if asked != AUTO:
        return asked
    return "additive" if calibrated or effort == "fast" else "trellis"


def widths_of(codec: str) -> tuple[Width, ...]:
    """Those that a plan may choose from for a model that is coded by one of ``CODECS``.

    Its own, and those of the others at numbers of bits that it does not have.

    Raises:
        VQError: another codec.
    """
    if codec not in CODECS:
        raise VQError(f"codec: found {codec!r}, expected one of {', '.join(CODECS)}")
    own = {width.bits for width in WIDTHS if width.codec == codec}
    return tuple(w for w in WIDTHS if w.codec == codec or w.bits not in own)


def spec_for(
    codec: str, bits: int, shape: tuple[int, ...], seed: int = 0, effort: str = "balanced"
) -> Any:
    """The specification that ``encode`` chooses for a shape without looking at the weight."""
    return registry.get(codec).spec_for(bits, shape, seed, effort)
