"""What the demo measures of a model, against the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checker, conditioning, scenes
from .sampler import Sampler

TIMESTEPS = tuple(range(50, 1000, 100))
_SEED = 7


@dataclass(frozen=True, eq=False)
class Probe:
    """Inputs for noise prediction: latents of drawn scenes, the noise on them, their captions.

    Attributes:
        latents, noise: float32 `[n, 4, h, w]`.
        context: float32 `[n, tokens, 768]`.
    """

    latents: Tensor
    noise: Tensor
    context: Tensor


def make_probe(sampler: Sampler, subjects: Sequence[scenes.Scene]) -> Probe:
    """Draw each scene once and encode it; the noise is seeded."""
    chance = np.random.default_rng(_SEED)
    drawn = np.stack([scenes.draw(scene, chance) for scene in subjects])
    latents = sampler.encode(torch.from_numpy(drawn).float() / 255)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(_SEED))
    context = conditioning.embed([scene.caption for scene in subjects])
    return Probe(latents, noise, context)


def predictions(sampler: Sampler, model: Any, probe: Probe) -> Tensor:
    """Predicted noise at every one of `TIMESTEPS`, float32 `[timesteps, n, 4, h, w]`.

    The network sees the same noised latents whatever it answered before (teacher-forced), so
    that the difference of two models is theirs alone and does not build up over steps.
    """
    return torch.stack(
        [
            sampler.predict(model, probe.latents, probe.noise, timestep, probe.context)
            for timestep in TIMESTEPS
        ]
    )


@dataclass(frozen=True)
class Alignment:
    """Share of the pictures, 0..1, in which the checker finds what the caption says.

    `colour`, `shape` and `position` count pictures in which that attribute is right for both
    objects; `scene` those in which all of them are.
    """

    colour: float
    shape: float
    position: float
    scene: float


def alignment(pictures: Tensor, subjects: Sequence[scenes.Scene]) -> Alignment:
    """Check pictures (float `[n, h, w, 3]` in 0..1) against the scenes they were made for."""
    readable = (pictures * 255).round().to(torch.uint8).numpy()
    scores = [
        astuple(checker.score(picture, scene))
        for picture, scene in zip(readable, subjects, strict=True)
    ]
    shares = np.mean(np.array(scores, np.float64), 0)
    return Alignment(*(float(share) for share in shares[: len(fields(Alignment))]))
