"""The demo's bench where there is no ComfyUI: diffusers' network, scheduler and autoencoder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..checkpoint.gguf import is_gguf, load_gguf
from ..evaluation.bench import Recording, Size
from ..hosts.diffusers import load_unet
from . import task
from .autoencoder import TinyAutoencoder


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


@dataclass(frozen=True, eq=False)
class Asked:
    """What a model was asked in one step: latents ``[prompts, 4, h, w]`` and the timestep."""

    latents: Tensor
    timestep: int


class DiffusersBench:
    """See ``evaluation.bench.Bench``. Models are networks of diffusers.

    Predictions have the shape ``[T, prompts, 2, 4, h, w]``, with and without the caption.
    """

    def __init__(self, autoencoder: Path, captions: Sequence[str]) -> None:
        self.name = f"diffusers {diffusers.__version__}"
        self.prompts = captions
        self.seeds = [task.SEED + i for i in range(len(captions))]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._autoencoder = TinyAutoencoder(autoencoder, self._device)
        self._scheduler = noise_schedule()
        self._contexts = torch.stack(task.contexts(captions)).to(self._device)

    def alone(self, index: int) -> DiffusersBench:
        one = copy.copy(self)
        one.prompts, one.seeds = [self.prompts[index]], [self.seeds[index]]
        one._contexts = self._contexts[:, index : index + 1]
        return one

    def load(self, path: Path) -> UNet2DConditionModel:
        if checkpoint.is_vq(path):
            return load_unet(checkpoint.load(path)).to(self._device)
        return load_unet(_weights(path)).to(self._device)

    def size(self, path: Path) -> Size:
        return task.size_of(path)

    def floor(self, model: Path) -> UNet2DConditionModel:
        """Computed in float32, as all models here."""
        rounded = {key: tensor.bfloat16() for key, tensor in _weights(model).items()}
        return load_unet(rounded).to(self._device)

    @torch.inference_mode()
    def record(self, model: UNet2DConditionModel) -> Recording:
        asked, answers = [], []

        def keep(step: int, latents: Tensor, timestep: int, noise: Tensor) -> None:
            if step in task.RECORDED:
                asked.append(Asked(latents.cpu(), timestep))
                answers.append(noise.transpose(0, 1).cpu())

        latents = self._sample(model, keep)
        timesteps = tuple(float(one.timestep) for one in asked)
        return Recording(timesteps, torch.stack(answers), latents, asked)

    @torch.inference_mode()
    def predict(self, model: UNet2DConditionModel, recording: Recording) -> Tensor:
        answers = [self._noise(model, one.latents, one.timestep) for one in recording.inputs]
        return torch.stack(answers).transpose(1, 2).cpu()

    @torch.inference_mode()
    def sample(self, model: UNet2DConditionModel) -> Tensor:
        return self._sample(model, lambda *step: None)

    def decode(self, latents: Tensor) -> Tensor:
        return self._autoencoder.decode(latents)

    def network(self, model: UNet2DConditionModel) -> UNet2DConditionModel:
        return model

    @torch.inference_mode()
    def call(self, model: UNet2DConditionModel, recording: Recording, step: int) -> None:
        asked: Asked = recording.inputs[step]
        self._noise(model, asked.latents[:1], asked.timestep)

    def _noise(self, model: UNet2DConditionModel, latents: Tensor, timestep: int) -> Tensor:
        """``[2, n, 4, h, w]`` for the first n prompts, with and without their captions."""
        context = self._contexts[:, : len(latents)].flatten(0, 1)
        latents = latents.to(self._device).repeat(2, 1, 1, 1)
        return model(latents, timestep, context).sample.unflatten(0, (2, -1))

    def _sample(
        self, model: UNet2DConditionModel, keep: Callable[[int, Tensor, int, Tensor], None]
    ) -> Tensor:
        """Final latents; ``keep`` is told step, latents, timestep and predictions."""
        generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        drawn = [torch.randn(task.LATENT, generator=generator) for generator in generators]
        latents = torch.stack(drawn).to(self._device)
        self._scheduler.set_timesteps(task.STEPS)
        timesteps = self._scheduler.timesteps.tolist()
        for step, timestep in enumerate(tqdm(timesteps, desc="sampling", leave=False)):
            noise = self._noise(model, latents, timestep)
            keep(step, latents, timestep, noise)
            toward, without = noise
            guided = without + task.GUIDANCE * (toward - without)
            latents = self._scheduler.step(guided, timestep, latents).prev_sample
        return latents.cpu()


def _weights(path: Path) -> dict[str, Tensor]:
    if is_gguf(path):
        return load_gguf(path)
    source = checkpoint.open_dense(path)
    return {key: source.read(key) for key in sorted(source.keys())}
