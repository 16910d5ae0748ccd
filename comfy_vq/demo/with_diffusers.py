"""The demo's host where there is no ComfyUI: diffusers' network, scheduler and autoencoder."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..errors import VQError
from ..hosts.diffusers import load_unet
from .sampler import GUIDANCE, LATENT, STEPS

_SCALE = 0.18215
"""Of SD1.5's latents: the network sees the autoencoder's times this."""


class DiffusersSampler:
    """See `Sampler`."""

    def __init__(self, autoencoder: Path) -> None:
        self.name = f"diffusers {diffusers.__version__}"
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._autoencoder = load_autoencoder(autoencoder).to(self._device)
        # Stable Diffusion 1.5's noise schedule.
        self._scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        )

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

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        scaled = pictures.movedim(-1, 1).to(self._device) * 2 - 1
        return self._autoencoder.encode(scaled).latents.cpu()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        pictures = self._autoencoder.decode(latents.to(self._device)).sample
        return (pictures / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu()


def load_autoencoder(path: Path) -> AutoencoderTiny:
    """A tiny autoencoder from the layout of TAESD that ComfyUI loads.

    The file's `vae_scale` and `vae_shift` lead from the autoencoder's own latents to unscaled
    ones of SD1.5. Folded together with SD1.5's scale they must come to nothing, since diffusers
    feeds the network with the autoencoder's own latents.

    Raises:
        VQError: the file has other tensors, or a scale that the network would not see undone.
    """
    tensors = load_file(path)
    scale = float(tensors.pop("vae_scale", torch.tensor(1.0)))
    shift = float(tensors.pop("vae_shift", torch.tensor(0.0)))
    if abs(scale - _SCALE) > 1e-6 or shift != 0:
        raise VQError(
            f"{path}: found vae_scale {scale:g} and vae_shift {shift:g}, expected {_SCALE} and 0; "
            "this is not an autoencoder of the SD1.5 family"
        )
    renamed = {_diffusers_name(key): tensor.float() for key, tensor in tensors.items()}
    autoencoder = AutoencoderTiny()
    expected = {name: tuple(tensor.shape) for name, tensor in autoencoder.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    if found != expected:
        odd = min(set(found.items()) ^ set(expected.items()))
        raise VQError(
            f"{path}: {odd[0]} of shape {list(odd[1])} is missing or has no place; expected the "
            "layout of TAESD (taesd_encoder.*, taesd_decoder.*)"
        )
    autoencoder.load_state_dict(renamed)
    return autoencoder.eval()


def _diffusers_name(key: str) -> str:
    """The decoder's first layer, a clamp, is a function in diffusers, so its numbers shift."""
    part, number, rest = key.split(".", 2)
    if part == "taesd_decoder":
        return f"decoder.layers.{int(number) - 1}.{rest}"
    return f"encoder.layers.{number}.{rest}"
