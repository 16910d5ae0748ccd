"""Memory for sums: main memory up to a limit, and beyond it a mapped temporary file."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import torch
from torch import Tensor

LIMIT = 2 << 30
"""Bytes of main memory by default. The moments of an SDXL take about as much."""


class Accumulators:
    """Hands out zeroed tensors.

    Tensors in the file are pages that the system writes out when it needs the memory. The file has
    no name: it goes with the last tensor in it, however the process ends.

    Args:
        limit: bytes of main memory to hand out.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._left = limit

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """float32, or float64, of a shape, on the CPU, which may be changed outside inference mode too."""
        nbytes = dtype.itemsize * math.prod(shape)
        with torch.inference_mode(False):
            if nbytes <= self._left:
                self._left -= nbytes
                return torch.zeros(shape, dtype=dtype)
            with tempfile.TemporaryFile(prefix="comfy-vq-moments-") as file:
                mapped = np.memmap(file, f"f{dtype.itemsize}", "w+", shape=shape)
            return torch.from_numpy(mapped)

    def copy(self, tensor: Tensor) -> Tensor:
        """The same values in memory of its own."""
        return self.zeros(tuple(tensor.shape)).copy_(tensor)
