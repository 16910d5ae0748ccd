"""Small models with random weights that ComfyUI's own loader detects, by family.

``FAMILIES`` are the four that most tests run on, ``ALL_FAMILIES`` these and all others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from comfy_vq.model import VQModel

from . import flux, hunyuan, images, lumina, others, unets, videos, wan
from .basic import FAMILIES
from .family import Family
from .weights import beside_weights, coded_at_random, dense_weights, random_weight

ALL_FAMILIES: dict[str, Family] = {
    **FAMILIES,
    **unets.FAMILIES,
    **flux.FAMILIES,
    **lumina.FAMILIES,
    **images.FAMILIES,
    **wan.FAMILIES,
    **hunyuan.FAMILIES,
    **videos.FAMILIES,
    **others.FAMILIES,
}

__all__ = [
    "ALL_FAMILIES",
    "FAMILIES",
    "Family",
    "beside_weights",
    "random_vq_model",
    "random_weight",
    "tiny_state_dict",
]


def tiny_state_dict(
    family: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights of a bare diffusion model: matrices scaled to their width, norms near one."""
    return dense_weights(ALL_FAMILIES[family], dtype, seed)


def random_vq_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> VQModel:
    """A small VQ model with random codes of every width, which costs no encoding."""
    chosen = ALL_FAMILIES[family]
    return coded_at_random(family, dense_weights(chosen, dtype, seed), chosen, seed)
