"""A bench for model files: conditioning, latent and autoencoder that fit the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nodes
import torch
from comfy.model_patcher import ModelPatcher

from . import prompting
from .bench import ComfyBench, Prompt, Settings
from .candidates import load_candidate

RANDOM_CONDITIONING = (
    "The prompts are seeded random vectors, for want of text encoders: comparisons between "
    "candidates hold, absolute figures may not."
)


@dataclass(frozen=True)
class Sampling:
    """How to sample a reference from a file.

    Attributes:
        texts: prompts.
        size: of the pictures, in pixels; None for what the model's family was trained on.
        clip, clip_type: text encoders, if not the reference's own, and how to use them.
        vae: an autoencoder, if not the reference's own.
        seed: of the first prompt; the next ones count up.
    """

    texts: Sequence[str]
    steps: int
    cfg: float
    sampler: str
    size: int | None = None
    clip: Sequence[Path] = ()
    clip_type: str = "stable_diffusion"
    vae: Path | None = None
    seed: int = 0


@torch.inference_mode()
def bench_for(
    reference: Path, sampling: Sampling, on_call: Callable[[], object]
) -> tuple[ComfyBench, str | None]:
    """A bench that samples as the reference is meant to be sampled.

    Returns:
        The bench; what a reader of its figures should know, or None.

    Raises:
        VQError: see ``asked_of``.
    """
    model, prompts, settings, vae, note = asked_of(reference, sampling)
    return ComfyBench(prompts, settings, vae, on_call, {reference: model}), note


@torch.inference_mode()
def asked_of(
    reference: Path, sampling: Sampling
) -> tuple[ModelPatcher, list[Prompt], Settings, object, str | None]:
    """A reference, and what to sample from it as it is meant to be sampled.

    Returns:
        The MODEL; prompts; how to sample; a VAE or None; what a reader of figures should know, or None.

    Raises:
        VQError: the reference or an encoder cannot be loaded, or what conditioning the reference
            takes is not known.
    """
    model = load_candidate(reference)
    prompts, vae, note = _encode(reference, model, sampling)
    pixels = sampling.size or _pixels(model)
    (latent,) = nodes.EmptyLatentImage().generate(pixels, pixels)
    settings = Settings(latent, sampling.steps, sampling.cfg, sampling.sampler)
    return model, prompts, settings, vae, note


def _encode(
    reference: Path, model: ModelPatcher, sampling: Sampling
) -> tuple[list[Prompt], object, str | None]:
    clip, vae = prompting.encoders_in(reference)
    if sampling.clip:
        clip = prompting.load_clip(sampling.clip, sampling.clip_type)
    if sampling.vae is not None:
        vae = prompting.load_vae(sampling.vae)
    if clip is None:
        prompts = prompting.random_prompts(model, sampling.texts, sampling.seed)
        return prompts, vae, RANDOM_CONDITIONING
    return prompting.encoded_prompts(clip, sampling.texts, sampling.seed), vae, None


def _pixels(model: ModelPatcher) -> int:
    """Stable Diffusion 1 was trained on smaller pictures than what came later."""
    return 512 if model.model.model_config.unet_config.get("context_dim") == 768 else 1024
