"""Plans by measuring, in the host: a private dense copy of a MODEL, and questions that its sampling meets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, cycle
from typing import Any

import comfy.model_management
import nodes
import torch
from comfy.model_patcher import ModelPatcher

from ...budget import native_side
from ...calibration import Calibration
from ...errors import VQError
from ...estimate import duration
from ...model import VQModel
from ...plan import Plan, Task
from ...plan.measured import measured_plan
from ...probe import BenchProbe
from ...progress import OnProgress, Progress
from ...timestep import moments_of_time
from .display import raise_if_interrupted
from .evaluation.bench import ComfyBench, Prompt, Settings
from .evaluation.prompting import random_prompts
from .model.carry import carry_over
from .model.loader import InMemory, load
from .model.source import ModelSource

_STEPS, _GUIDANCE = 12, 4.0
_RECORDED = 4
"""Evaluations that are kept of each prompt's sampling."""
_ELEMENTS = 1 << 13
"""Of answers, as many as tell errors that agree from those that happen to: a few small pictures do not."""
_MOST = 4
"""Prompts, or seeds of one, that each layer is asked at most; as many others, at least 2, judge whole plans."""
_SEED = 0x5EED


@dataclass(frozen=True, eq=False)
class Questions:
    """What a model is asked.

    Attributes:
        prompts: at least one; they come again, with other seeds, as often as needed.
        cfg: guidance of the sampling in which inputs are met.
        latent: an empty LATENT of one, or None for a picture of the family's native resolution.
    """

    prompts: Sequence[Prompt]
    cfg: float = _GUIDANCE
    latent: dict[str, Any] | None = None


def questions_of(
    patcher: ModelPatcher,
    positive: list[Any] | None,
    negative: list[Any] | None,
    latent: dict[str, Any] | None,
) -> Questions:
    """From what a graph gives, with several seeds.

    Args:
        positive: a CONDITIONING; None for seeded noise of the shapes that the model takes.
        negative: a CONDITIONING; None for no guidance.
        latent: a LATENT, of which the first is taken, or None.

    Raises:
        VQError: there is no conditioning, and what the model takes is not known.
    """
    if latent is not None and not latent["samples"].is_nested:
        latent = {"samples": torch.zeros_like(latent["samples"][:1])}
    if positive is None:
        texts = [f"noise {i}" for i in range(2 * _MOST)]
        try:
            return Questions(random_prompts(patcher, texts, _SEED), latent=latent)
        except VQError as error:
            raise VQError(f"plan: measured: {error}; or connect positive") from error
    asked = Prompt("", positive, positive if negative is None else negative, _SEED)
    return Questions([asked], 1.0 if negative is None else _GUIDANCE, latent)


def plan_by_measuring(
    patcher: ModelPatcher,
    source: ModelSource,
    task: Task,
    table: Plan,
    questions: Questions,
    on_progress: OnProgress,
    say: Callable[[str], None],
    calibration: Calibration | None = None,
) -> Plan:
    """See ``measured.measured_plan``.

    Args:
        patcher, source: the MODEL, and its weights.
        on_progress: told of layers that were tried; may raise to stop.
        say: told what is going on.
        calibration: under which the layers will be coded.
    """
    say("measuring how much each layer shows in the output")
    started = time.monotonic()

    def on_layer(done: int, total: int, left: float | None) -> None:
        on_progress(Progress(done, total, "measuring", left))

    device = comfy.model_management.get_torch_device()

    def read(layer: str) -> torch.Tensor:
        return source.read(f"{layer}.weight").to(device).float()

    known = moments_of_time(source)

    def moments(layer: str) -> torch.Tensor | None:
        heard = calibration.moments.get(layer) if calibration and layer not in known else None
        found = known.get(layer) if heard is None else heard.mean()
        return found.to(device) if found is not None and bool(found.any()) else None

    probe = probe_of(patcher, source, questions, native_side(table.family), raise_if_interrupted)
    plan = measured_plan(task, table, read, probe, moments=moments, on_layer=on_layer)
    say(f"planned by measuring in {duration(time.monotonic() - started)}")
    return plan


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
        VQError: see ``ComfyBench``.
    """
    dense = {key: source.read(key) for key in source.keys()}  # noqa: SIM118
    origin = InMemory(VQModel({}, dense, source.source))
    private = carry_over(patcher, load(origin, disable_dynamic=True), origin)
    first, second = benches_of(questions, side, on_call)
    network = private.model.diffusion_model
    modules = {
        key.removesuffix(".weight"): network.get_submodule(source.module(key))
        for key in source.keys()  # noqa: SIM118
        if source.codable(key)
    }
    return BenchProbe(private, modules, lambda layer: source.read(f"{layer}.weight"), first, second)


def benches_of(
    questions: Questions, side: int, on_call: Callable[[], object]
) -> tuple[ComfyBench, ComfyBench]:
    """Those that ask about single layers, and about plans; arguments as of ``probe_of``."""
    latent = questions.latent
    if latent is None:
        (latent,) = nodes.EmptyLatentImage().generate(8 * side, 8 * side)
    settings = Settings(latent, _STEPS, questions.cfg)
    each = _RECORDED * latent["samples"].numel() * (1 if questions.cfg == 1 else 2)
    size = min(_MOST, -(-_ELEMENTS // each))
    first, second = (
        ComfyBench(part, settings, on_call=on_call, recorded=_RECORDED)
        for part in _parted(questions.prompts, size, max(2, size))
    )
    return first, second


def _parted(prompts: Sequence[Prompt], *counts: int) -> Iterator[list[Prompt]]:
    """So many prompts, one part after the other, each with a seed of its own."""
    seeds = count(_SEED)
    again = cycle(prompts)
    for size in counts:
        yield [replace(next(again), seed=next(seeds)) for _ in range(size)]
