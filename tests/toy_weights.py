"""A model held in a dictionary, as a source of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from comfy_vq.model import Source


class Weights:
    """See ``quantize.WeightSource``."""

    source = Source(name="toy.safetensors")

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def keys(self) -> list[str]:
        return list(self.tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.tensors[key].shape)

    def dtype(self, key: str) -> torch.dtype:
        return self.tensors[key].dtype

    def codable(self, key: str) -> bool:
        return key.endswith(".weight") and self.tensors[key].ndim in (2, 4)

    def read(self, key: str) -> Tensor:
        return self.tensors[key]
