"""Pictures, files and an autoencoder for features that need them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import comfy.sd
import folder_paths
import torch
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn


def folder_of(kind: str) -> Path:
    """A folder where ComfyUI looks for files of a kind, such as ``loras``."""
    folder = Path(folder_paths.get_folder_paths(kind)[0])
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.filename_list_cache.pop(kind, None)
    return folder


def picture(side: int = 64, seed: int = 2) -> Tensor:
    """An IMAGE: [1, side, side, 3] in 0..1."""
    return torch.rand((1, side, side, 3), generator=torch.Generator().manual_seed(seed))


@cache
def tiny_vae(channels: int = 4) -> comfy.sd.VAE:
    """A VAE of random weights whose latents have so many channels and an eighth of the size."""
    return comfy.sd.VAE(sd=random_weights(TAESD(latent_channels=channels), seed=3))


def random_weights(module: nn.Module, seed: int = 11) -> dict[str, Tensor]:
    """A state dict for ``module`` whose layers neither vanish nor explode."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, tensor in module.state_dict().items():
        width = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
        noise = torch.randn(tensor.shape, generator=generator) / width**0.5
        near_one = tensor.ndim == 1 and ("norm" in key or key.endswith("scale"))
        weights[key] = 1 + 0.1 * noise if near_one else noise if tensor.ndim > 1 else 0.1 * noise
    return weights
