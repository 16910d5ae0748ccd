"""The demo's host where there is no ComfyUI: diffusers' network, scheduler and autoencoder."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..hosts.diffusers import load_unet
from .autoencoder import TinyAutoencoder
from .sampler import GUIDANCE, LATENT, STEPS


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion 1.5's: the one that the demo's model was trained on."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


class DiffusersSampler:
    """See `Sampler`."""

    def __init__(self, autoencoder: Path) -> None:
        self.name = f"diffusers {diffusers.__version__}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._autoencoder = TinyAutoencoder(autoencoder, self._device)
        self._scheduler = noise_schedule()

    def load(self, path: Path) -> UNet2DConditionModel:
        if checkpoint.is_vq(path):
            return load_unet(checkpoint.load(path)).to(self._device)
        source = checkpoint.open_dense(path)
        return load_unet({key: source.read(key) for key in sorted(source.keys())}).to(self._device)

    @torch.inference_mode()
    def predict(
        self,
        model: UNet2DConditionModel,
        latents: Tensor,
        noise: Tensor,
        timestep: int,
        context: Tensor,
    ) -> Tensor:
        time = torch.tensor([timestep])
        noisy = self._scheduler.add_noise(latents, noise, time).to(self._device)
        return model(noisy, timestep, context.to(self._device)).sample.cpu()

    @torch.inference_mode()
    def sample(
        self, model: UNet2DConditionModel, context: Tensor, unconditional: Tensor, seed: int
    ) -> Tensor:
        count = len(context)
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(count, *LATENT, generator=generator).to(self._device)
        contexts = torch.cat((unconditional.expand(count, -1, -1), context)).to(self._device)
        self._scheduler.set_timesteps(STEPS)
        for timestep in tqdm(self._scheduler.timesteps, desc="sampling", leave=False):
            without, toward = model(latents.repeat(2, 1, 1, 1), timestep, contexts).sample.chunk(2)
            noise = without + GUIDANCE * (toward - without)
            latents = self._scheduler.step(noise, timestep, latents).prev_sample
        return latents.cpu()

    def encode(self, pictures: Tensor) -> Tensor:
        return self._autoencoder.encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        return self._autoencoder.decode(latents)
