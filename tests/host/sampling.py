"""Sampling in this process through the host's own sampler."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.sd
import nodes
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from host.families import ALL_FAMILIES, FAMILIES


def sample(model: ModelPatcher, family: str, steps: int = 2, seed: int = 1) -> Tensor:
    """Latents from fixed random conditioning, as the KSampler node makes them."""
    chosen = ALL_FAMILIES[family]
    positive, negative = chosen.conditioning(seed)
    latent = {"samples": chosen.empty_latent()}
    (out,) = nodes.common_ksampler(
        model, seed, steps, 4.0, "euler", "simple", positive, negative, latent
    )
    samples = out["samples"]
    return torch.cat([t.flatten() for t in samples.tensors]) if samples.is_nested else samples


def load_dense(
    weights: dict[str, Tensor], metadata: Mapping[str, str] | None = None
) -> ModelPatcher:
    """A MODEL of dense weights, as UNETLoader makes it."""
    return comfy.sd.load_diffusion_model_state_dict(dict(weights), metadata=dict(metadata or {}))


def rounding(reference: Tensor, weights: Mapping[str, Tensor], family: str) -> float:
    """How far the sample of these weights moves when each is the next larger number.

    As much can come of sums in another order, such as layouts of memory and kinds of CPUs have.
    """
    larger = {
        key: torch.nextafter(weight, torch.full_like(weight, torch.inf))
        for key, weight in weights.items()
    }
    return relative_l2(reference, sample(load_dense(larger), family))


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
