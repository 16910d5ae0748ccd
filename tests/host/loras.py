"""LoRAs with random weights, in the form of a file."""

from __future__ import annotations

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def low_rank_lora(
    model: ModelPatcher,
    rank: int = 4,
    layers: int = 6,
    seed: int = 0,
    dimensions: tuple[int, ...] = (2, 4),
) -> dict[str, Tensor]:
    """A plain LoRA on the first ``layers`` weights of a model with such a number of dimensions."""
    generator = torch.Generator().manual_seed(seed)
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    by_key = {key: name for name, key in names.items() if isinstance(key, str)}
    weights = {f"{n}.weight": getattr(m, "weight", None) for n, m in model.model.named_modules()}
    chosen = [
        k for k, w in weights.items() if k in by_key and w is not None and w.ndim in dimensions
    ]
    lora: dict[str, Tensor] = {}
    for key in chosen[:layers]:
        name, shape = by_key[key], weights[key].shape
        down = torch.randn((rank, *shape[1:]), generator=generator) / shape[1:].numel() ** 0.5
        up = torch.randn((shape[0], rank, *[1] * (len(shape) - 2)), generator=generator) / rank
        lora[f"{name}.lora_down.weight"], lora[f"{name}.lora_up.weight"] = down, up
        lora[f"{name}.alpha"] = torch.tensor(float(rank))
    return lora
