"""Coding the weights of a model of the host's: from the cache where it was done before."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management

from ...cache import Cache
from ...cache_key import key_of
from ...calibration.gate import Gate
from ...estimate import duration, estimate
from ...model import VQModel
from ...plan import Plan
from ...quantize import quantize
from .display import Display, raise_if_interrupted
from .model.source import PatchedSource

log = logging.getLogger(__name__)

# What is freed on a GPU before encoding: the encoder's working memory, which does not grow with the
# layer, and copies of the largest weight in float32.
_WORKING_BYTES = 2 << 30
_COPIES = 4


@dataclass(frozen=True)
class Job:
    """What is to be coded, and how.

    Attributes:
        source: the dense weights.
        plan: what each layer becomes.
        effort: ``fast``, ``balanced`` or ``best``.
        excluded: patterns of layers that the plan leaves alone.
        cache: where to look for an earlier quantization, and to keep this one.
        node: that does it, for advice.
        memory: graphics memory that the result will take ...
        doing: ... while it does this.
        gate: with a calibration, for feedback of errors where it helps.
    """

    source: PatchedSource
    plan: Plan
    effort: str
    excluded: Sequence[str]
    cache: Cache | None
    node: str
    memory: int
    doing: str
    gate: Gate | None = None


@dataclass(frozen=True)
class Done:
    """A coded model.

    Attributes:
        vq: the model; mapped from the cache's file, if there is one, it takes no main memory.
        how: where it comes from and how long that took.
        expected: what was expected beforehand.
        advice: what somebody who keeps changing a LoRA should know; empty where there is none.
    """

    vq: VQModel
    how: str
    expected: str
    advice: str


def carry_out(job: Job, display: Display) -> Done:
    """Code the weights, or find them coded.

    Raises:
        VQError: see ``quantize.quantize``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    key = earlier = None
    if job.cache is not None:
        display.say("looking for an earlier quantization")
        how = {"effort": job.effort, "exclude": job.excluded, "on_tensor": raise_if_interrupted}
        used = None if job.gate is None else job.gate.fingerprint()
        key = key_of(job.source, job.plan, calibration=used, **how)
        earlier = job.cache.find(key)
    if earlier is not None:
        how = f"from the cache, quantized {earlier.when} in {duration(earlier.seconds)}"
        expected = f"estimated: {job.memory / 1e9:.2f} GB of graphics memory while {job.doing}"
        return Done(earlier.model, how, expected, _advice(job, earlier.seconds))
    vq, seconds, expected = _encode(job, display)
    if job.cache is not None and key is not None:
        stored = job.cache.store(key, vq, seconds)
        vq = vq if stored is None else stored.model
    return Done(vq, f"quantized in {duration(seconds)}", expected, _advice(job, seconds))


def sizes(vq: VQModel, plan: Plan, how: str, other_bytes: int = 0) -> str:
    """A line on what became of a model.

    Args:
        other_bytes: of tensors that the plan does not know.
    """
    dense = plan.other_bits + sum(layer.numel * layer.itemsize_bits for layer in plan.layers)
    return (
        f"{vq.source.name}: {vq.bits_per_weight:.3f} bits per weight, everything counted; "
        f"{dense / 8e6 + other_bytes / 1e6:.1f} MB -> {vq.nbytes / 1e6:.1f} MB; {how}"
    )


def patterns(lines: str) -> list[str]:
    """One pattern a line; empty lines do not count."""
    return [line.strip() for line in lines.splitlines() if line.strip()]


def _encode(job: Job, display: Display) -> tuple[VQModel, float, str]:
    """The coded model, the seconds that took, and what was expected before."""
    plan, device = job.plan, comfy.model_management.get_torch_device()
    largest = max(layer.numel for layer in plan.layers)
    comfy.model_management.free_memory(_WORKING_BYTES + _COPIES * 4 * largest, device)
    raise_if_interrupted()
    expected = estimate(plan, job.effort, device, job.memory, raise_if_interrupted, job.doing)
    display.say(str(expected))
    if advice := _advice(job, expected.seconds):
        log.warning("VQ: %s", advice)
    how = {"effort": job.effort, "device": device, "progress": display, "plan": plan}
    how["gate"] = job.gate
    started = time.perf_counter()
    vq = quantize(job.source, plan.target, **how)
    seconds = time.perf_counter() - started
    comfy.model_management.soft_empty_cache()
    return vq, seconds, str(expected)


def _advice(job: Job, seconds: float) -> str:
    patched = job.source.patched
    if not patched:
        return ""
    return (
        f"{patched} weights carry patches (a LoRA, for instance), which are baked in: any change of them "
        f"codes the model anew (about {duration(seconds)}). To change them freely, put them after "
        f"{job.node}."
    )
