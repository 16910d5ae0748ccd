"""What ``benchmarks.kernels`` measures: shapes, and how small they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.layers import Missing
from benchmarks.random_vq import random_weight
from benchmarks.timing import Timer
from comfy_vq.codecs import VQWeight

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

LINEARS = (
    (8192, 640, 640),
    (8192, 5120, 640),
    (8192, 640, 2560),
    (2048, 1280, 1280),
    (2048, 10240, 1280),
    (2048, 1280, 5120),
    (154, 1280, 2048),
)
"""Rows of the input, outputs, inputs: SDXL at 1024 pixels with guidance."""

CONVOLUTIONS = ((320, 320, 128), (640, 640, 64), (1280, 1280, 32), (1280, 2560, 32))
"""Outputs, inputs, height and width of 3x3 convolutions there."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how small.

    Attributes:
        rows_scale: factor on the rows of linear inputs and on the area of convolutions'.
        width_scale: divisor of all widths; not 1 in tests only.
    """

    timer: Timer
    dtype: torch.dtype
    books: int
    rows_scale: float = 1.0
    width_scale: int = 1

    @property
    def trellis_bits(self) -> int:
        """The nearest to ``books`` that a trellis has."""
        return min(max(self.books, 2), 5)

    @property
    def device(self) -> torch.device:
        return self.timer.device

    def linears(self) -> list[tuple[int, int, int]]:
        by = self.width_scale
        return [(max(1, int(m * self.rows_scale)), n // by, k // by) for m, n, k in LINEARS]

    def convolutions(self) -> list[tuple[int, int, int]]:
        by = self.width_scale
        return [
            (o // by, i // by, max(4, int(s * self.rows_scale**0.5))) for o, i, s in CONVOLUTIONS
        ]

    def coded(self, shape: tuple[int, ...], bits: int = 0, codec: str = "additive") -> VQWeight:
        return random_weight(shape, bits or self.books, codec, self.dtype).to(self.device)

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device=self.device).to(self.dtype)


def guarded(measure: Callable[[], float]) -> float | Missing:
    """A figure, or why there is none: one kernel that fails leaves the others their rows."""
    try:
        return measure()
    except Exception as error:  # noqa: BLE001 - compilers and drivers raise anything
        return Missing(
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
