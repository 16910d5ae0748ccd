"""A network of the Stable Diffusion family in the original naming, with random weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.unet_shapes import demo


def state_dict(
    channels: int = 320, context: int = 768, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights scaled so that activations keep their size; norms near one, biases near zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in demo(channels, context).items():
        tensor = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            tensor /= math.sqrt(math.prod(shape[1:]))
        else:
            tensor = 0.1 * tensor + (1.0 if key.endswith(".weight") else 0.0)
        tensors[key] = tensor.to(dtype)
    return tensors
