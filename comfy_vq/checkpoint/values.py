"""Values that a reader refuses and a writer never writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..finite import is_finite
from .layout import codebooks_name, grid_name, piece_name
from .refusal import QUANTIZE_AGAIN, refuse


def check_pieces(path: Path, layer: str, pieces: Mapping[str, Tensor]) -> None:
    """Raise VQError if a piece of a coded layer (its scales, for one) holds NaN or Inf."""
    for name, tensor in pieces.items():
        check_finite(path, f"layer {layer}, tensor {piece_name(layer, name)}", tensor)


def check_finite(path: Path, where: str, tensor: Tensor, advice: str = QUANTIZE_AGAIN) -> None:
    """Raise VQError if a tensor of any float dtype holds NaN or Inf."""
    if not is_finite(tensor):
        refuse(path, where, "NaN or Inf", "finite values", advice)


def check_set(path: Path, name: str, codebooks: Tensor, grid: Tensor) -> None:
    """Raise VQError unless every sum of entries, one of each codebook, is a byte on a sound grid.

    Args:
        codebooks: uint8, codebooks along the first axis.
        grid: float32 ``[2]``: step, offset.
    """
    step, offset = grid.tolist()
    if not 0 < step < math.inf:
        refuse(path, f"tensor {grid_name(name)}, step", str(step), "a finite number above 0")
    if offset not in range(256):
        where = f"tensor {grid_name(name)}, offset"
        refuse(path, where, str(offset), "a whole number from 0 to 255")
    highest = int(codebooks.flatten(1).amax(1).sum())
    if highest > 255:
        found = f"largest entries that sum to {highest}"
        refuse(path, f"tensor {codebooks_name(name)}", found, "a sum of at most 255")
