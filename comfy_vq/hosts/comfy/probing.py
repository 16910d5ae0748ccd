"""A probe of a MODEL: a private dense copy, and questions that its own sampling meets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import nodes
import torch
from comfy.model_patcher import ModelPatcher

from ...errors import VQError
from ...model import VQModel
from ...probe import BenchProbe
from .carry import carry_over
from .evaluation.bench import ComfyBench, Prompt, Settings
from .evaluation.prompting import random_prompts
from .loader import InMemory, load
from .source import ModelSource

_STEPS, _GUIDANCE = 12, 4.0
_RECORDED = 4
"""Evaluations that are kept of each prompt's sampling."""
_FIRST, _SECOND = 1, 2
"""Prompts, or seeds of one, whose answers are compared for each layer, and for whole plans."""
_SEED = 0x5EED


@dataclass(frozen=True, eq=False)
class Questions:
    """What a graph gives to sample with; what it does not give is made up.

    Attributes:
        positive, negative: CONDITIONINGs, or None. Without a negative one there is no guidance;
            without any, seeded noise of the shapes that the model takes.
        latent: an empty LATENT, or None for pictures of the model's native resolution.
    """

    positive: list[Any] | None = None
    negative: list[Any] | None = None
    latent: dict[str, Any] | None = None


@torch.inference_mode()
def probe_of(
    patcher: ModelPatcher,
    source: ModelSource,
    questions: Questions,
    side: int,
    on_call: Callable[[], object],
) -> BenchProbe:
    """A probe of the model that a source reads; it takes as much memory as the dense model again.

    Args:
        patcher, source: the MODEL, and its weights.
        side: height and width of latents of its native resolution.
        on_call: called after every evaluation; may raise to stop.

    Raises:
        VQError: see ``ComfyBench`` and ``random_prompts``.
    """
    dense = {key: source.read(key) for key in source.keys()}  # noqa: SIM118
    origin = InMemory(VQModel({}, dense, source.source))
    private = carry_over(patcher, load(origin, disable_dynamic=True), origin)
    del dense
    latent = questions.latent
    if latent is None:
        (latent,) = nodes.EmptyLatentImage().generate(8 * side, 8 * side)
    elif len(latent["samples"]) > 1 and not latent["samples"].is_nested:
        latent = {**latent, "samples": latent["samples"][:1]}
    prompts = _prompts(patcher, questions)
    cfg = _GUIDANCE if questions.negative is not None or questions.positive is None else 1.0
    settings = Settings(latent, _STEPS, cfg)
    benches = [
        ComfyBench(part, settings, on_call=on_call, recorded=_RECORDED)
        for part in (prompts[:_FIRST], prompts[_FIRST:])
    ]
    network = private.model.diffusion_model
    modules = {
        key.removesuffix(".weight"): network.get_submodule(source.module(key))
        for key in source.keys()  # noqa: SIM118
        if source.codable(key)
    }
    return BenchProbe(private, modules, lambda layer: source.read(f"{layer}.weight"), *benches)


def _prompts(patcher: ModelPatcher, questions: Questions) -> list[Prompt]:
    count = _FIRST + _SECOND
    if questions.positive is None:
        texts = [f"seed {_SEED + i}" for i in range(count)]
        try:
            return random_prompts(patcher, texts, _SEED)
        except VQError as error:
            raise VQError(f"plan measured: {error}; or connect positive") from error
    negative = questions.negative or questions.positive
    prompt = Prompt("", questions.positive, negative, _SEED)
    return [replace(prompt, seed=_SEED + i) for i in range(count)]
