"""A trained narrow denoiser as a wide one that computes the same (after Net2Net).

A narrow network of the same layout costs a small part of the wide one's step, so most of the
training is done on it. Then every channel becomes `ratio` neighbouring copies of itself, which
the normalisations, the heads and the halves of GEGLU keep together. A layer that reads the
copies shares its weight among them, plus noise that adds up to zero over the copies: it changes
nothing at first, but it gives the weights a trained layer's spread and lets the copies part ways
in the training that follows.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel


def _shared(weight: torch.Tensor, ratio: int, chance: torch.Generator) -> torch.Tensor:
    """Share a weight [out, in, ...] among `ratio` copies of each input, noise included."""
    shared = weight.repeat_interleave(ratio, 1) / ratio
    noise = torch.randn(
        (*weight.shape[:2], ratio, *weight.shape[2:]), generator=chance, dtype=weight.dtype
    )
    noise = noise - noise.mean(2, keepdim=True)
    # So that with `ratio` times the inputs, the weights' spread is what it naturally would be.
    return shared + noise.flatten(1, 2) * weight.std() / ratio**0.5


def widen(narrow: UNet2DConditionModel, wide: UNet2DConditionModel, seed: int = 0) -> None:
    """Set the wide network's weights so that it computes what the narrow one does.

    Both come from `denoiser.build`, the wide one's width a multiple of the narrow one's.
    """
    chance = torch.Generator().manual_seed(seed)
    source, widened = narrow.state_dict(), {}
    for name, target in wide.state_dict().items():
        weight = source[name].float().cpu()
        ratio = target.shape[0] // weight.shape[0]
        if ratio > 1:
            weight = weight.repeat_interleave(ratio, 0)
        if weight.ndim > 1 and target.shape[1] != weight.shape[1]:
            weight = _shared(weight, target.shape[1] // weight.shape[1], chance)
        if name.endswith("to_q.weight"):
            # The product of query and key has `ratio` times the terms, and is divided by the
            # root of their number.
            weight = weight / ratio**0.5
        widened[name] = weight
    wide.load_state_dict(widened)
