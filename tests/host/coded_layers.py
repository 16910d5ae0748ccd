"""Linear layers of coded weights by themselves, and what goes into them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor

from comfy_vq import codecs
from comfy_vq.hosts.comfy.model.compute_mode import ComputeMode
from comfy_vq.hosts.comfy.model.layout import decode, pending, settled
from comfy_vq.hosts.comfy.model.ops import VQOperations
from comfy_vq.kernels import Rotation

CPU = torch.device("cpu")
PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]


def coded(
    bits: int = 3,
    shape: tuple[int, ...] = (48, 256),
    rotation: int | None = 128,
    codec: str = "additive",
) -> QuantizedTensor:
    """A random weight as a layer holds it, under a rotation of this block or none."""
    options = {} if codec == "int8" else {"rotation": rotation and Rotation(rotation, 5)}
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) / shape[1] ** 0.5
    made = codecs.encode(weight, bits, codec=codec, effort="fast", **options)
    return settled(pending(made), torch.float32)


def activations(
    tokens: int, width: int = 256, dtype: torch.dtype = torch.float32, pictures: int = 2
) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((pictures, tokens, width), generator=generator).to(dtype)


def exactly(weight: QuantizedTensor, x: Tensor) -> Tensor:
    return F.linear(x, decode(weight, x.dtype))


class Layers(torch.nn.Module):
    """Linear layers of coded weights by name, that a mode says how to compute."""

    def __init__(self, mode: str, **weights: QuantizedTensor) -> None:
        super().__init__()
        for name, weight in weights.items():
            rows, width = weight.shape
            self.add_module(name, VQOperations.Linear(width, rows, bias=False))
            getattr(self, name).weight = torch.nn.Parameter(weight, requires_grad=False)
        self.mode = ComputeMode(mode, self)

    def evaluate(self, **inputs: Tensor) -> dict[str, Tensor]:
        self.mode.before_evaluation()
        return {name: getattr(self, name)(x) for name, x in inputs.items()}

    def sample(
        self, first: dict[str, Tensor], later: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs of the first evaluation and of the second."""
        with self.mode.sampling(CPU, torch.float32):
            return self.evaluate(**first), self.evaluate(**later)
