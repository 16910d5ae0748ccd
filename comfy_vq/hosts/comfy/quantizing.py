"""From a dense MODEL to a VQ MODEL, within a running graph."""

from __future__ import annotations

from functools import partial

from comfy.model_patcher import ModelPatcher

from ...budget import Fit, native_side, plan_within, sampling_bytes
from ...cache import Cache
from ...calibration import Calibration
from ...calibration.gate import Gate, describe
from ...codecs import CODECS
from ...plan import Plan
from ...quantize import plan_for
from .carry import carry_over
from .compute_mode import compute_as
from .display import Display, raise_if_interrupted
from .encoding import Job, carry_out, patterns, sizes
from .loader import InMemory, keep_decoded, load
from .probing import Questions, probe_of
from .source import ModelSource

_SAMPLING = "sampling one picture"


def quantize_model(
    patcher: ModelPatcher,
    bits: float | Fit,
    effort: str,
    exclude: str,
    node_id: str | None = None,
    cache: Cache | None = None,
    compute: str = "auto",
    spare: int = 0,
    codec: str = CODECS[0],
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
        codec: one of ``codecs.CODECS``.
        calibration: of this model.

    Raises:
        VQError: see ``ModelSource``, ``quantize`` and ``budget.fit``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    source, excluded = ModelSource(patcher), patterns(exclude)
    memory_of = partial(sampling_bytes_of, patcher)
    how = {"exclude": excluded, "codec": codec, "effort": effort}
    plan = plan_within(bits, partial(plan_for, source, **how), memory_of)
    node, memory = "VQ Quantize Model", memory_of(plan)
    side = native_side(plan.family)
    ask = partial(probe_of, patcher, source, Questions(), side, raise_if_interrupted)
    gate = None if calibration is None else Gate(calibration, ask)
    job = Job(source, plan, effort, excluded, cache, node, memory, _SAMPLING, gate)
    done = carry_out(job, Display(node_id))
    # Held rather than read from the file again when needed: by then the cache may have dropped it.
    origin = InMemory(done.vq)
    quantized = compute_as(carry_over(patcher, load(origin), origin), compute)
    quantized = keep_decoded(quantized, spare)
    used = done.vq.plan.get("calibration")
    lines = (sizes(done.vq, plan, done.how), done.expected, used and describe(used), done.advice)
    return quantized, "\n".join(filter(None, lines)) + f"\n\n{plan.table()}"


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
