"""The ruler's bench in ComfyUI: any model that the host samples, sampled as KSampler does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.samplers
import comfyui_version
import nodes
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....errors import VQError
from ....evaluation.bench import Recording, Size, spread
from .candidates import load_candidate, size_in
from .floor import rounded
from .replay import Call, Listener, Replay

RECORDED = 8
"""Evaluations kept of each prompt, unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What to sample, besides the model.

    Attributes:
        text: for people.
        positive, negative: CONDITIONINGs.
        seed: of the noise, and of samplers that add some.
    """

    text: str
    positive: list[Any]
    negative: list[Any]
    seed: int


def again(prompts: Sequence[Prompt], number: int, seed: int) -> Prompt:
    """The prompt of a number, as often as they have to come again, so many seeds after the first one's."""
    return replace(prompts[number % len(prompts)], seed=prompts[0].seed + seed)


@dataclass(frozen=True, eq=False)
class Settings:
    """How to sample: KSampler's inputs. ``latent`` is a LATENT of batch 1."""

    latent: dict[str, Any]
    steps: int
    cfg: float
    sampler: str = "euler"
    scheduler: str = "simple"


def _nothing() -> None:
    pass


class ComfyBench:
    """See ``evaluation.bench.Bench``. Models are MODELs of any family.

    Latents are as KSampler gives them. Predictions have the shape ``[T, prompts, k, ...]``, with
    ``k`` = 2 for the positive and the negative conditioning, 1 without guidance (``cfg`` 1).

    Args:
        prompts: at least one.
        vae: a VAE of the host; without one there are no pictures.
        on_call: called after every evaluation of a model, for progress; may raise to stop.
        loaded: files that were loaded already, which ``load`` hands out once.
        recorded: evaluations kept of each prompt, evenly spread over those that its sampling takes.

    Raises:
        VQError: the latent is a batch, or joins several kinds such as video and sound; the host
            knows no such sampler or scheduler.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        settings: Settings,
        vae: Any = None,
        on_call: Callable[[], object] = _nothing,
        loaded: Mapping[Path, ModelPatcher] | None = None,
        recorded: int = RECORDED,
    ) -> None:
        samples = settings.latent["samples"]
        if samples.is_nested or len(samples) != 1:
            found = "several joined" if samples.is_nested else f"a batch of {len(samples)}"
            raise VQError(
                f"latent: found {found}, expected a single one: every prompt and seed is sampled "
                "by itself; set batch_size to 1"
            )
        for kind, name, known in (
            ("sampler", settings.sampler, comfy.samplers.KSampler.SAMPLERS),
            ("scheduler", settings.scheduler, comfy.samplers.KSampler.SCHEDULERS),
        ):
            if name not in known:  # the host would take another one without a word
                raise VQError(f"{kind}: found {name!r}, expected one of {', '.join(known)}")
        self.name = f"ComfyUI {comfyui_version.__version__}"
        self.prompts: Sequence[str] = [prompt.text for prompt in prompts]
        self.seeds: Sequence[int] = [prompt.seed for prompt in prompts]
        self._prompts = prompts
        self._settings = settings
        self._vae = vae
        self._on_call = on_call
        self._loaded = dict(loaded or {})
        self._recorded = recorded

    def alone(self, index: int) -> ComfyBench:
        how = self._settings, self._vae, self._on_call, self._loaded, self._recorded
        return ComfyBench([self._prompts[index]], *how)

    @torch.inference_mode()  # as ComfyUI runs every node
    def load(self, path: Path) -> ModelPatcher:
        """A file of any kind that ``load_candidate`` knows."""
        return self._loaded.pop(path, None) or load_candidate(path)

    @torch.inference_mode()
    def size(self, path: Path) -> Size:
        return size_in(path)

    @torch.inference_mode()
    def floor(self, model: Path | ModelPatcher) -> ModelPatcher:
        """The host computes in bfloat16 where the device can, and on a CPU in float32."""
        return load_candidate(model, torch.bfloat16) if isinstance(model, Path) else rounded(model)

    @torch.inference_mode()
    def record(self, model: ModelPatcher) -> Recording:
        latents, kept = [], []
        for prompt in self._prompts:
            listener = Listener(self._on_call)
            latents.append(self._run(model, prompt, listener))
            kept.append(spread(listener.calls, self._recorded))
        noise = torch.stack([_noise(calls) for calls in kept], 1)
        timesteps = tuple(call.timestep for call in kept[0])
        return Recording(timesteps, noise, torch.cat(latents), kept)

    @torch.inference_mode()
    def predict(self, model: ModelPatcher, recording: Recording) -> Tensor:
        answers = []
        for prompt, asked in zip(self._prompts, recording.inputs, strict=True):
            replay = Replay(asked, self._on_call)
            self._run(model, prompt, replay)
            answers.append(_noise(replay.calls))
        return torch.stack(answers, 1)

    @torch.inference_mode()
    def sample(self, model: ModelPatcher) -> Tensor:
        runs = [self._run(model, prompt, Listener(self._on_call)) for prompt in self._prompts]
        return torch.cat(runs)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor | None:
        """Of a video, the middle frame."""
        if self._vae is None:
            return None
        return torch.cat(
            [_picture(self._vae.decode(latents[i : i + 1])) for i in range(len(latents))]
        )

    def network(self, model: ModelPatcher) -> nn.Module:
        return model.model.diffusion_model

    @torch.inference_mode()
    def call(self, model: ModelPatcher, recording: Recording, step: int) -> None:
        """With the first prompt's inputs."""
        self._run(model, self._prompts[0], Replay([recording.inputs[0][step]], self._on_call))

    def _run(self, model: ModelPatcher, prompt: Prompt, listener: Listener) -> Tensor:
        settings = self._settings
        (out,) = nodes.common_ksampler(
            listener.attach(model),
            prompt.seed,
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            prompt.positive,
            prompt.negative,
            settings.latent,
        )
        return out["samples"].float().cpu()


def _noise(calls: Sequence[Call]) -> Tensor:
    return torch.stack([call.noise for call in calls])


def _picture(decoded: Tensor) -> Tensor:
    """float32 ``[1, h, w, 3]`` of an IMAGE or of frames ``[1, t, h, w, c]``."""
    if decoded.ndim == 5:
        decoded = decoded[:, decoded.shape[1] // 2]
    return decoded[..., :3].float().clamp(0, 1).cpu()
