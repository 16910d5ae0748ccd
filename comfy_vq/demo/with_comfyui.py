"""The demo's bench where a ComfyUI is found: its loaders, KSampler and VAE, and our loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..evaluation.bench import Recording, Size
from ..hosts.comfy_boot import boot
from ..hosts.locate import comfyui_version
from . import task

_SAMPLED = range(2)  # the host's numbers of the positive and the negative conditioning


@dataclass(frozen=True, eq=False)
class Asked:
    """What a model was asked in one step, for all prompts with and then without their captions.

    Attributes:
        x: noisy latents ``[2, prompts, 4, h, w]`` before the model scales them.
        sigma: ``[2, prompts]``.
        context: ``[2, prompts, tokens, 768]``.
    """

    x: Tensor
    sigma: Tensor
    context: Tensor


class ComfyUIBench:
    """See ``evaluation.bench.Bench``. Boots the ComfyUI in a folder, once per process.

    Models are MODELs. Latents are as the network sees them. Predictions have the shape
    ``[T, prompts, 2, 4, h, w]``, with and without the caption.
    """

    def __init__(self, comfyui: Path, autoencoder: Path, captions: Sequence[str]) -> None:
        boot(comfyui)
        import comfy.latent_formats
        import folder_paths
        import nodes

        self.name = f"ComfyUI {comfyui_version(comfyui)}"
        self.prompts = captions
        self.seeds = (task.SEED,)
        self._contexts = task.contexts(captions)
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

    def size(self, path: Path) -> Size:
        return task.size_of(path)

    @torch.inference_mode()
    def floor(self, path: Path) -> Any:
        """Computed in bfloat16 where ComfyUI does that on the device, else in float32."""
        import comfy.sd

        return comfy.sd.load_diffusion_model(str(path), {"dtype": torch.bfloat16})

    @torch.inference_mode()
    def record(self, model: Any) -> Recording:
        listener = _Listener()
        clone = model.clone()
        clone.set_model_unet_function_wrapper(listener)
        latents = self._sample(clone)
        asked, noise = listener.steps()
        sampling = model.get_model_object("model_sampling")
        timesteps = tuple(float(sampling.timestep(one.sigma[0, 0])) for one in asked)
        return Recording(timesteps, noise, latents, asked)

    @torch.inference_mode()
    def predict(self, model: Any, recording: Recording) -> Tensor:
        return torch.stack([_noise(model, asked) for asked in recording.inputs])

    @torch.inference_mode()
    def sample(self, model: Any) -> Tensor:
        return self._sample(model)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        import nodes

        raw = {"samples": self._format.process_out(latents)}
        (pictures,) = nodes.VAEDecode().decode(self._vae, raw)
        return pictures.float().clamp(0, 1).cpu()

    def network(self, model: Any) -> nn.Module:
        return model.model.diffusion_model

    @torch.inference_mode()
    def call(self, model: Any, recording: Recording, step: int) -> None:
        asked: Asked = recording.inputs[step]
        some = slice(task.LAYER_PROMPTS)
        _noise(model, Asked(asked.x[:, some], asked.sigma[:, some], asked.context[:, some]))

    def _sample(self, model: Any) -> Tensor:
        import nodes

        context, unconditional = self._contexts
        (sampled,) = nodes.common_ksampler(
            model=model,
            seed=task.SEED,
            steps=task.STEPS,
            cfg=task.GUIDANCE,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            positive=[[context, {}]],
            negative=[[unconditional, {}]],
            latent={"samples": torch.zeros(len(context), *task.LATENT)},
        )
        return self._format.process_in(sampled["samples"].float().cpu())


class _Listener:
    """Wraps a model's calls, and keeps what it was asked and what it answered, on the CPU.

    The host may ask for both conditionings in one batch or in two.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[tuple[Tensor, ...]], ...] = ([], [])

    def __call__(self, apply_model: Callable[..., Tensor], args: dict[str, Any]) -> Tensor:
        x, sigma, c = args["input"], args["timestep"], args["c"]
        denoised = apply_model(x, sigma, **c)
        parts = (x, sigma, c["c_crossattn"], _noise_in(x, sigma, denoised))
        which = args["cond_or_uncond"]
        chunks = zip(*(part.float().cpu().chunk(len(which)) for part in parts), strict=True)
        for number, chunk in zip(which, chunks, strict=True):
            self._kept[number].append(tuple(part.clone() for part in chunk))
        return denoised

    def steps(self) -> tuple[list[Asked], Tensor]:
        """The recorded ones, and predictions ``[T, prompts, 2, 4, h, w]``."""
        pairs = [[self._kept[number][step] for number in _SAMPLED] for step in task.RECORDED]
        joined = [[torch.stack(parts) for parts in zip(*pair, strict=True)] for pair in pairs]
        noise = torch.stack([parts[3] for parts in joined]).transpose(1, 2)
        return [Asked(*parts[:3]) for parts in joined], noise


def _noise(model: Any, asked: Asked) -> Tensor:
    """``[prompts, 2, 4, h, w]``."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    inputs = (asked.x, asked.sigma, asked.context)
    x, sigma, context = (part.flatten(0, 1).to(model.load_device) for part in inputs)
    denoised = model.model.apply_model(x, sigma, c_crossattn=context)
    return _noise_in(x, sigma, denoised).unflatten(0, (2, -1)).transpose(0, 1).cpu()


def _noise_in(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """The host answers with latents that are freed of the noise that the network saw."""
    return (x.float() - denoised.float()) / sigma.float()[:, None, None, None]
