"""What the codecs share that code rows on a codebook set: shapes, pieces, the way to the kernels."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from .. import kernels
from ..errors import VQError
from ..kernels import Rotation
from .codebooks import GROUP
from .weight import RANKS, Piece, VQWeight, matrix_shape

AXES = "out,kh,kw,in"
"""The order in which a weight is coded, as files name it."""


class OnGridSpec:
    """What specifications have in common, besides ``bits``."""

    codec: ClassVar[str]
    kind: ClassVar[type[kernels.Additive | kernels.Trellis]]
    rotation: Rotation | None

    def coded(self, weight: VQWeight) -> kernels.Additive | kernels.Trellis:
        codes, scales, shared = weight.tensors["codes"], weight.tensors["scales"], weight.codebooks
        if shared is None:
            raise VQError(
                f"field codebooks: a weight of codec {self.codec} has no codebook set; read it anew"
            )
        grid = shared.codebooks, shared.step, shared.offset
        return self.kind(codes, *grid, scales, self.rotation, weight.shape[1])


class OnGrid:
    """weight = row scale * step * (a whole number - offset), rotated back."""

    name: str
    version = 1

    def supports(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in RANKS and 0 not in shape and shape[1] % GROUP == 0

    def pieces(self, spec: Any, shape: tuple[int, ...]) -> dict[str, Piece]:
        if spec.rotation is not None and shape[1] % spec.rotation.block:
            raise VQError(
                f"codec {self.name}, field rotation.block: found {spec.rotation.block}, expected a "
                f"divisor of the input width {shape[1]}; quantize again"
            )
        rows, columns = matrix_shape(shape)
        return {
            "codes": Piece(torch.uint8, (rows, columns // GROUP, spec.bits)),
            "scales": Piece(torch.float16, (rows,)),
        }


def usual_rotation(shape: tuple[int, ...], seed: int) -> Rotation | None:
    """Blocks of 128, of 64 where the input width asks for it, else none."""
    block = next((b for b in (128, 64) if shape[1] % b == 0), None)
    return Rotation(block, seed) if block else None
