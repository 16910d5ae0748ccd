"""Values that a reader refuses and a writer never writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .fields import fail
from .layout import codebooks_name, grid_name, piece_name


def check_pieces(path: Path, layer: str, pieces: Mapping[str, Tensor]) -> None:
    """Raise VQError if a piece of a coded layer (its scales, for one) holds NaN or Inf."""
    for name, tensor in pieces.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            where = f"layer {layer}, tensor {piece_name(layer, name)}"
            fail(path, where, "NaN or Inf", "finite values")


def check_set(path: Path, name: str, codebooks: Tensor, grid: Tensor) -> None:
    """Raise VQError unless every sum of entries, one of each codebook, is a byte on a sound grid.

    Args:
        codebooks: uint8, codebooks along the first axis.
        grid: float32 ``[2]``: step, offset.
    """
    step, offset = grid.tolist()
    if not 0 < step < math.inf:
        fail(path, f"tensor {grid_name(name)}, step", str(step), "a finite number above 0")
    if offset not in range(256):
        where = f"tensor {grid_name(name)}, offset"
        fail(path, where, str(offset), "a whole number from 0 to 255")
    highest = int(codebooks.flatten(1).amax(1).sum())
    if highest > 255:
        found = f"largest entries that sum to {highest}"
        fail(path, f"tensor {codebooks_name(name)}", found, "a sum of at most 255")
