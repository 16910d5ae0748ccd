"""Scalar int8 rows with one scale each, for the few layers that must not go lower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..errors import VQError
from .registry import OnProgress
from .scales import fit_scales, half_scales
from .weight import RANKS, Piece, VQWeight, matrix_shape, to_matrix


@dataclass(frozen=True)
class Int8Spec:
    """Nothing to choose."""

    codec: ClassVar[str] = "int8"

    def coded(self, weight: VQWeight) -> kernels.Int8:
        return kernels.Int8(weight.tensors["codes"], weight.tensors["scales"])


class Int8:
    """weight[n, k] = scales[n] * codes[n, k] / 128, codes in -127..127.

    The division keeps the scales of ordinary weights well inside half precision.
    """

    name = "int8"
    version = 1

    def supports(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in RANKS and 0 not in shape

    def spec_for(
        self, bits: int, shape: tuple[int, ...], seed: int = 0, effort: str = "balanced"
    ) -> Int8Spec:
        if bits != 8:
            raise VQError(f"codec int8 has 8 bits per weight, not {bits}")
        return Int8Spec()

    def encode(
        self,
        weight: Tensor,
        *,
        bits: int = 8,
        effort: str = "balanced",
        seed: int = 0,
        moments: Tensor | None = None,
        on_progress: OnProgress | None = None,
    ) -> VQWeight:
        """Round to nearest, then refit the scales; effort and seed change nothing."""
        matrix = to_matrix(weight).float()
        peak = matrix.abs().amax(dim=1, keepdim=True)
        unit = peak.clamp(min=torch.finfo(torch.float32).tiny) / 127
        codes = (matrix / unit).round().clamp(-127, 127)
        scales = half_scales(128 * fit_scales(matrix, codes, moments))
        if on_progress is not None:
            on_progress(weight.numel())
        tensors = {"codes": codes.to(torch.int8), "scales": scales}
        return VQWeight(
            self.spec_for(bits, tuple(weight.shape)), tuple(weight.shape), weight.dtype, tensors
        )

    def pieces(self, spec: Int8Spec, shape: tuple[int, ...]) -> dict[str, Piece]:
        rows, columns = matrix_shape(shape)
        return {
            "codes": Piece(torch.int8, (rows, columns)),
            "scales": Piece(torch.float16, (rows,)),
        }

    def codebook_shape(self, spec: Int8Spec) -> None:
        return None

    def to_record(self, spec: Int8Spec) -> dict[str, Any]:
        return {}

    def from_record(self, record: dict[str, Any]) -> Int8Spec:
        if record:
            raise VQError(
                f"codec int8: found fields {sorted(record)}, expected none; update comfy-vq or "
                "quantize again"
            )
        return Int8Spec()
