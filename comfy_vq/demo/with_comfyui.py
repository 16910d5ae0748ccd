"""The demo's host where a ComfyUI is found: its loaders, KSampler and VAE, and our loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint
from ..hosts.comfy_boot import boot
from ..hosts.locate import comfyui_version
from .sampler import GUIDANCE, LATENT, STEPS


class ComfyUISampler:
    """See `Sampler`. Boots the ComfyUI in a folder, once per process."""

    def __init__(self, comfyui: Path, autoencoder: Path) -> None:
        boot(comfyui)
        import comfy.latent_formats
        import folder_paths
        import nodes

        self.name = f"ComfyUI {comfyui_version(comfyui)}"
        folder_paths.add_model_folder_path("vae", str(autoencoder.parent))
        (self._vae,) = nodes.VAELoader().load_vae(autoencoder.name)
        self._format = comfy.latent_formats.SD15()

    @torch.inference_mode()  # as ComfyUI runs every node
    def load(self, path: Path) -> Any:
        if checkpoint.is_vq(path):
            from ..hosts.comfy.loader import load_file

            return load_file(str(path))
        import comfy.sd

        return comfy.sd.load_diffusion_model(str(path))

    @torch.inference_mode()
    def predict(
        self, model: Any, latents: Tensor, noise: Tensor, timestep: int, context: Tensor
    ) -> Tensor:
        import comfy.model_management

        comfy.model_management.load_models_gpu([model])
        device = model.load_device
        levels = model.get_model_object("model_sampling").sigma(torch.tensor([timestep]))
        sigma = levels.to(device).float().expand(len(latents))
        # ComfyUI noises without shrinking the latents, and answers with the latents freed of the
        # noise that the network saw.
        noisy = latents.to(device) + sigma[0] * noise.to(device)
        denoised = model.model.apply_model(noisy, sigma, c_crossattn=context.to(device))
        return ((noisy - denoised.to(noisy)) / sigma[0]).cpu()

    @torch.inference_mode()
    def sample(self, model: Any, context: Tensor, unconditional: Tensor, seed: int) -> Tensor:
        import nodes

        empty = {"samples": torch.zeros(len(context), *LATENT)}
        (sampled,) = nodes.common_ksampler(
            model=model,
            seed=seed,
            steps=STEPS,
            cfg=GUIDANCE,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            positive=[[context, {}]],
            negative=[[unconditional, {}]],
            latent=empty,
        )
        return self._format.process_in(sampled["samples"].float().cpu())

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        return self._format.process_in(self._vae.encode(pictures).float().cpu())

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        import nodes

        raw = {"samples": self._format.process_out(latents)}
        (pictures,) = nodes.VAEDecode().decode(self._vae, raw)
        return pictures.float().clamp(0, 1).cpu()
