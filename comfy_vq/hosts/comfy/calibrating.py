"""Calibration in a running graph: the model samples as it always does, and its layers are heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from comfy.model_patcher import ModelPatcher

from ...calibration import Calibration, Collector
from ...calibration.accumulators import LIMIT
from .evaluation.bench import ComfyBench, Prompt, Settings
from .model.source import ModelSource


def calibrate(
    patcher: ModelPatcher,
    prompts: Sequence[Prompt],
    settings: Settings,
    start: Calibration | None = None,
    *,
    on_call: Callable[[], object],
    limit: int = LIMIT,
) -> Calibration:
    """Sample a MODEL, with all that nodes attached to it, and sum up what goes into its layers.

    Both conditionings and all timesteps count, as the sampler asks for them.

    Args:
        prompts: a picture is sampled for each.
        start: a calibration of this model to continue.
        on_call: called after every evaluation of the model; may raise to stop.
        limit: bytes of main memory for the sums; what exceeds it lies in a temporary file.

    Raises:
        VQError: see ``ModelSource``, ``ComfyBench`` and ``Collector``.
    """
    bench = ComfyBench(prompts, settings, on_call=on_call)
    collector = collector_for(patcher, start, limit)
    with collector.listening():
        bench.sample(patcher)
    return collector.result(len(prompts))


def collector_for(
    patcher: ModelPatcher, start: Calibration | None = None, limit: int = LIMIT
) -> Collector:
    """What listens to a MODEL's layers. Raises VQError: see ``ModelSource`` and ``Collector``."""
    source = ModelSource(patcher)
    layers = source.layers()
    shapes = {name: source.shape(f"{name}.weight") for name in layers}
    return Collector(layers, shapes, start, limit)
