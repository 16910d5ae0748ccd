"""What a MODEL's patches do to one coded weight: run beside it, or change it each time it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.lora
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....lowrank import Beside, LowRank

Patch = tuple[float, Any, float, tuple[int, int, int] | None, Any]
"""The host's: strength, value, factor of the weight, part of the weight, function of the change."""


class WeightPatches:
    """Patches of one coded weight.

    Args:
        key: the weight's name in the model.
        patches: in the order in which they apply.
        weight: for its shape, ``[out, in]`` or ``[out, in, kh, kw]``.
        groups: of a convolution; beside one with several, nothing can run.
        originals: the unpatched weights by key, as the host's hooks hand them over.

    Attributes:
        beside: what runs beside the weight; None where the patches need the weight itself.
        idle: whether they change nothing.
    """

    def __init__(
        self,
        key: str,
        patches: Sequence[Patch],
        weight: Tensor,
        groups: int = 1,
        originals: dict[str, Any] | None = None,
    ) -> None:
        self._key = key
        self._patches = list(patches)
        self._originals = originals
        # At no strength a low-rank adapter adds nothing; a merge may still scale the weight.
        parts = [low_rank(patch, weight.shape) for patch in patches]
        active = [part for part in parts if part is None or part.scale != 0]
        self.idle = not active
        self.beside: Beside | None = None
        found = [part for part in active if part is not None]
        if found and len(found) == len(active) and groups == 1:
            beside = Beside(found, weight.shape)
            self.beside = beside if beside.pays() else None

    def __call__(self, weight: Tensor) -> Tensor:
        """The patched weight; ``weight`` is dense and may be written over."""
        return comfy.lora.calculate_weight(
            self._patches,
            weight,
            self._key,
            intermediate_dtype=weight.dtype,
            original_weights=self._originals,
        )


def low_rank(patch: Patch, shape: Sequence[int]) -> LowRank | None:
    """The addition that a patch is; None for one that is none or needs the weight itself.

    Args:
        patch: of the host.
        shape: of the weight, ``[out, in]`` or ``[out, in, kh, kw]``.
    """
    strength, value, strength_model, offset, function = patch
    # Subclasses and other adapters (DoRA, LoKr, LoHa, ...) are the host's to compute.
    if type(value) is not LoRAAdapter or strength_model != 1 or function is not None:
        return None
    up, down, alpha, middle, dora_scale, reshape = value.weights
    if dora_scale is not None or reshape is not None:
        return None
    rows, columns = slice(0, shape[0]), slice(0, torch.Size(shape[1:]).numel())
    if offset is not None:
        dim, start, length = offset
        if dim == 0:
            rows = slice(start, start + length)
        elif dim == 1 and len(shape) == 2:
            columns = slice(start, start + length)
        else:
            return None
    scale = strength * (1.0 if alpha is None else float(alpha) / down.shape[0])
    part = LowRank(up, down, scale, middle, rows, columns)
    return part if _fits(part) else None


def _fits(part: LowRank) -> bool:
    """Whether the factors have the sizes that they must; if not, the host says what it makes of them."""
    rank, columns = part.down.shape[0], part.down[0].numel()
    if part.middle is not None:
        if part.middle.ndim != 4 or part.middle.shape[:2] != (rank, rank):
            return False
        columns *= part.middle.shape[2:].numel()
    up = part.up.shape[0], part.up[0].numel()
    wanted = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
    return up == (wanted[0], rank) and columns == wanted[1]
