"""Sampling in this process through the host's own sampler."""

from __future__ import annotations

import comfy.sd
import nodes
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from host.families import FAMILIES


def sample(model: ModelPatcher, family: str, steps: int = 2, seed: int = 1) -> Tensor:
    """Latents from fixed random conditioning, as the KSampler node makes them."""
    chosen = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn((1, 16, chosen.context), generator=generator)
    extra = {}
    if chosen.pooled:
        extra["pooled_output"] = torch.randn((1, chosen.pooled), generator=generator)
    positive, negative = [[context, dict(extra)]], [[-context, dict(extra)]]
    latent = {"samples": torch.zeros(chosen.latent)}
    (out,) = nodes.common_ksampler(
        model, seed, steps, 4.0, "euler", "simple", positive, negative, latent
    )
    return out["samples"]


def load_dense(weights: dict[str, Tensor]) -> ModelPatcher:
    """A MODEL of dense weights, as UNETLoader makes it."""
    return comfy.sd.load_diffusion_model_state_dict(dict(weights))


def relative_l2(reference: Tensor, candidate: Tensor) -> float:
    return float((candidate - reference).norm() / reference.norm())


def predict(model: ModelPatcher, family: str, seed: int = 1) -> Tensor:
    """One denoising step of a model as it is loaded now."""
    chosen = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    conditions = {"c_crossattn": torch.randn((1, 16, chosen.context), generator=generator)}
    if chosen.pooled:
        conditions["y"] = torch.randn((1, chosen.pooled), generator=generator)
    latent = torch.randn(chosen.latent, generator=generator)
    with torch.inference_mode():
        return model.model.apply_model(latent, torch.tensor([0.7]), **conditions)
