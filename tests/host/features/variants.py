"""The models that features are tried on: all families, and relatives of one with more blocks."""

from __future__ import annotations

from typing import Any

import torch

from comfy_vq.model import VQModel
from host.families import ALL_FAMILIES, Family
from host.families.family import hosted
from host.families.unets import unet_config
from host.families.weights import coded_at_random, dense_weights


def _sd15(depth: list[int], output_depth: list[int], **options: Any) -> Family:
    config = {**unet_config(depth, 768, output_depth=output_depth), "num_heads": 8, **options}
    return hosted("SD15", config, "BaseModel", (1, 4, 8, 8), 768)


VARIANTS: dict[str, Family] = {
    **ALL_FAMILIES,
    "sd15, two widths": _sd15([1, 0], [0, 0, 1, 1], num_res_blocks=[1, 1], channel_mult=[1, 2]),
    "sd15, two blocks": _sd15([1, 1], [1, 1, 1]),
    "sd15 with a middle": _sd15([1], [1, 1], transformer_depth_middle=1),
}


def random_vq_variant(variant: str, seed: int = 0) -> VQModel:
    """A VQ model with random codes of every width."""
    chosen = VARIANTS[variant]
    return coded_at_random(variant, dense_weights(chosen, torch.float32, seed), chosen, seed)
