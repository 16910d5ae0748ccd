"""How well the checker reads true scenes, and how well the model follows captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from comfy_vq.demo.checker import score
from comfy_vq.demo.conditioning import embed
from comfy_vq.demo.scenes import Scene, all_scenes, draw, held_out
from training.autoencoder import Autoencoder
from training.denoiser import sample

_BATCH = 32


def _to_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _to_array(pictures: torch.Tensor) -> np.ndarray:
    return (pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _shares(pictures: Sequence[np.ndarray], scenes: Sequence[Scene]) -> dict[str, float]:
    scores = [
        dataclasses.asdict(score(picture, scene))
        for picture, scene in zip(pictures, scenes, strict=True)
    ]
    return {name: sum(one[name] for one in scores) / len(scores) for name in scores[0]}


@torch.no_grad()
def measure_checker(
    autoencoder: Autoencoder, each: int = 4, seed: int = 1
) -> tuple[dict[str, float], dict[str, float], float]:
    """The checker on every scene drawn `each` times.

    Returns:
        The share read right of each attribute: of the drawings, and of the drawings after
        encoding and decoding; and the peak signal-to-noise ratio of the latter in dB.
    """
    rng = np.random.RandomState(seed)
    scenes = [scene for scene in all_scenes() for _ in range(each)]
    drawn = np.stack([draw(scene, rng) for scene in scenes])
    device = next(autoencoder.parameters()).device
    decoded = np.concatenate(
        [
            _to_array(autoencoder.decode(autoencoder.encode(batch.to(device))))
            for batch in _to_tensor(drawn).split(_BATCH)
        ]
    )
    error = np.square(drawn.astype(np.float64) - decoded).mean()
    return _shares(drawn, scenes), _shares(decoded, scenes), 10 * np.log10(255**2 / error)


@torch.no_grad()
def measure_model(
    model: UNet2DConditionModel,
    autoencoder: Autoencoder,
    scenes: Sequence[Scene],
    each: int,
    seed: int,
    guidance: float,
    steps: int,
) -> tuple[dict[str, float], np.ndarray]:
    """Sample each scene's caption `each` times and let the checker read the pictures.

    Args:
        seed: of the first batch; every further batch takes the next one.
        guidance, steps: as in `denoiser.sample`.

    Returns:
        The share read right of each attribute, and the pictures, uint8 [n, 64, 64, 3].
    """
    asked = [scene for scene in scenes for _ in range(each)]
    pictures = []
    for start in range(0, len(asked), _BATCH):
        captions = [scene.caption for scene in asked[start : start + _BATCH]]
        latent = sample(model, captions, seed + start // _BATCH, steps, guidance)
        pictures.append(_to_array(autoencoder.decode(latent)))
    return _shares(np.concatenate(pictures), asked), np.concatenate(pictures)


@torch.no_grad()
def correlation_of_copies(model: UNet2DConditionModel, copies: int) -> dict[str, float]:
    """How alike the channels still are that widening made of one channel.

    Args:
        model: a widened denoiser.
        copies: how many neighbouring channels were one.

    Returns:
        For each residual block the mean correlation between such channels, over places and
        samples, of what its first convolution gives: 1 means that they still do the same.
    """
    found = {}

    def note(name: str, output: torch.Tensor) -> None:
        channels = output.transpose(0, 1).flatten(1)
        channels = channels - channels.mean(1, keepdim=True)
        groups = torch.nn.functional.normalize(channels, dim=1).unflatten(0, (-1, copies))
        between = (groups @ groups.mT).sum((1, 2)).mean() - copies
        found[name] = float(between) / (copies * (copies - 1))

    hooks = [
        module.conv1.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, module in model.named_modules()
        if hasattr(module, "conv1")
    ]
    captions = [scene.caption for scene in held_out()[::4]]
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(len(captions), 4, 8, 8, generator=chance).to(model.device)
    model(noise, torch.tensor(700), embed(captions).to(model.device))
    for hook in hooks:
        hook.remove()
    return found
