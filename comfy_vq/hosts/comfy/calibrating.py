"""Calibration in a running graph: the model samples as it always does, and its layers are heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from comfy.model_patcher import ModelPatcher

from ...calibration import Calibration, Collector
from ...calibration.accumulators import LIMIT
from .evaluation.bench import ComfyBench, Prompt, Settings
from .source import ModelSource


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
    source = ModelSource(patcher)
    layers = source.layers()
    shapes = {name: source.shape(f"{name}.weight") for name in layers}
    collector = Collector(layers, shapes, start, limit)
    with collector.listening():
        bench.sample(patcher)
    return collector.result(len(prompts))


def describe(found: Calibration) -> str:
    """What a calibration holds, in a line or two."""
    count, used = len(found.shapes), len(found.moments)
    pictures = "1 picture" if found.pictures == 1 else f"{found.pictures} pictures"
    nbytes = sum(m.sums.nbytes for m in {id(m): m for m in found.moments.values()}.values())
    lines = [f"{pictures}; {used} of {count} layers; {nbytes / 1e6:.1f} MB"]
    if silent := sorted(found.shapes.keys() - found.moments.keys()):
        lines.append(f"not used while sampling, quantized without calibration: {', '.join(silent)}")
    return "\n".join(lines)
