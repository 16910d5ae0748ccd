"""From a dense MODEL to a VQ MODEL, within a running graph."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher

from ...budget import Fit, native_side, plan_within, sampling_bytes
from ...cache import Cache
from ...calibration import Calibration
from ...calibration.gate import Gate, describe
from ...codecs import AUTO, codec_of
from ...plan import Plan, to_table
from ...probe import BenchProbe
from ...quantize import plan_for, task_for
from ...reuse import saved_plan
from .display import Display, raise_if_interrupted
from .encoding import Job, carry_out, patterns, sizes
from .model.carry import carry_over
from .model.compute_mode import compute_as
from .model.loader import InMemory, keep_decoded, load
from .model.source import ModelSource
from .probing import plan_by_measuring, probe_of, questions_of

_SAMPLING = "sampling one picture"
PLANS = ("auto", "table", "measured")
"""By what layers get their widths: what is known of the family, or how the model itself behaves; auto: the latter
at effort ``best``."""


@dataclass(frozen=True, eq=False)
class Planning:
    """How the plan is made.

    Attributes:
        by: one of ``PLANS``.
        like: path of a VQ file whose plan is taken instead, or None.
        positive, negative, latent: what the model is asked where it is measured; see
            ``probing.questions_of``.
    """

    by: str = PLANS[0]
    like: str | None = None
    positive: list[Any] | None = None
    negative: list[Any] | None = None
    latent: dict[str, Any] | None = None


def quantize_model(
    patcher: ModelPatcher,
    bits: float | Fit,
    effort: str,
    exclude: str,
    node_id: str | None = None,
    cache: Cache | None = None,
    compute: str = "auto",
    spare: int = 0,
    codec: str = AUTO,
    planning: Planning | None = None,
    calibration: Calibration | None = None,
) -> tuple[ModelPatcher, str]:
    """A VQ MODEL that otherwise behaves as ``patcher``, which is not changed, and a report.

    Args:
        bits: average number of bits per weight of the whole diffusion model, or the graphics
            memory that sampling one picture should stay within.
        effort: ``fast``, ``balanced`` or ``best``.
        exclude: patterns of layers to leave alone, one a line.
        node_id: where the interface shows the remaining time.
        cache: where to look for an earlier quantization, and to keep this one.
        compute: how the result computes; see ``modes.COMPUTE``.
        spare: megabytes of memory for weights that stay decoded.
        codec: one of ``codecs.CODECS``, or ``codecs.AUTO``.
        planning: how; by default by the family's table.
        calibration: of this model.

    Raises:
        VQError: see ``ModelSource``, ``quantize``, ``budget.fit`` and ``questions_of``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    source, excluded = ModelSource(patcher), patterns(exclude)
    memory_of = partial(sampling_bytes_of, patcher)
    planning, display = planning or Planning(), Display(node_id)
    codec = codec_of(codec, effort, calibration is not None)
    how = {"exclude": excluded, "codec": codec, "effort": effort}
    plan_at = partial(plan_for, source, **how)
    if planning.like is not None:
        how.pop("codec")
        plan_at = partial(saved_plan(planning.like).plan_for, source, **how)
    plan = plan_within(bits, plan_at, memory_of)
    measured = planning.by == "measured" or (planning.by == "auto" and effort == "best")
    if measured and planning.like is None:
        questions = questions_of(patcher, planning.positive, planning.negative, planning.latent)
        task = task_for(source, plan.target, **how)
        asked = patcher, source, task, plan, questions
        plan = plan_by_measuring(*asked, display, display.say, calibration)
    node, memory = "VQ Quantize Model", memory_of(plan)
    gate = None if calibration is None else _gate(patcher, source, plan, planning, calibration)
    job = Job(source, plan, effort, excluded, cache, node, memory, _SAMPLING, gate)
    done = carry_out(job, Display(node_id))  # a bar of its own after that of measuring
    # Held rather than read from the file again when needed: by then the cache may have dropped it.
    origin = InMemory(done.vq)
    quantized = compute_as(carry_over(patcher, load(origin), origin), compute)
    quantized = keep_decoded(quantized, spare)
    used = done.vq.plan.get("calibration")
    lines = (sizes(done.vq, plan, done.how), done.expected, used and describe(used), done.advice)
    return quantized, "\n".join(filter(None, lines)) + f"\n\n{to_table(plan)}"


def _gate(
    patcher: ModelPatcher,
    source: ModelSource,
    plan: Plan,
    planning: Planning,
    calibration: Calibration,
) -> Gate:
    """What feedback has to pass: by the graph's own conditioning, or not at all without one."""
    if planning.positive is None:
        return Gate(calibration)

    def probe() -> BenchProbe:
        asked = questions_of(patcher, planning.positive, planning.negative, planning.latent)
        return probe_of(patcher, source, asked, native_side(plan.family), raise_if_interrupted)

    return Gate(calibration, probe)


def sampling_bytes_of(patcher: ModelPatcher, plan: Plan) -> int:
    """Estimated graphics memory while the model, coded by a plan, samples one picture.

    The activations are what the host itself reserves for latents of the family's native
    resolution, with and without prompt.
    """
    latents = patcher.model.latent_format
    side = max(1, native_side(plan.family) * 8 // getattr(latents, "spacial_downscale_ratio", 8))
    activations = patcher.memory_required([2, latents.latent_channels, side, side])
    itemsize = patcher.model.get_dtype_inference().itemsize
    return sampling_bytes(plan, int(activations), itemsize)
