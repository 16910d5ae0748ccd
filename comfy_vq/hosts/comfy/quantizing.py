"""From a dense MODEL to a VQ MODEL, within a running graph."""

from __future__ import annotations

import logging
import time
from functools import partial

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher

from ...budget import Fit, native_side, plan_within, sampling_bytes
from ...cache import Cache
from ...cache_key import key_of
from ...codecs import CODECS
from ...estimate import WHILE_SAMPLING, duration, estimate
from ...model import VQModel
from ...plan import Plan
from ...progress import Progress
from ...quantize import plan_for, quantize
from .carry import carry_over
from .compute_mode import compute_as
from .loader import InMemory, keep_decoded, load
from .source import ModelSource

log = logging.getLogger(__name__)

_SHOW_SECONDS = 0.5
_LOG_SECONDS = 10.0

# What is freed on a GPU before encoding: the encoder's working memory, which does not grow with the
# layer, and copies of the largest weight in float32.
_WORKING_BYTES = 2 << 30
_COPIES = 4


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

    Raises:
        VQError: see ``ModelSource``, ``quantize`` and ``budget.fit``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    source, excluded, display = ModelSource(patcher), patterns(exclude), _Display(node_id)
    memory_of = partial(sampling_bytes_of, patcher)
    how = {"exclude": excluded, "codec": codec, "effort": effort}
    plan = plan_within(bits, partial(plan_for, source, **how), memory_of)
    key, earlier = None, None
    if cache is not None:
        display.say("looking for an earlier quantization")
        key = key_of(source, plan, effort=effort, exclude=excluded, on_tensor=_raise_if_interrupted)
        earlier = cache.find(key)
    if earlier is not None:
        vq, seconds = earlier.model, earlier.seconds
        how = f"from the cache, quantized {earlier.when} in {duration(seconds)}"
        expected = f"estimated: {memory_of(plan) / 1e9:.2f} GB {WHILE_SAMPLING}"
    else:
        vq, seconds, expected = _encode(source, plan, effort, memory_of(plan), display)
        how = f"quantized in {duration(seconds)}"
        if cache is not None and key is not None:
            stored = cache.store(key, vq, seconds)
            # Mapped from the file, it takes no main memory of its own.
            vq = vq if stored is None else stored.model
    # Held rather than read from the file again when needed: by then the cache may have dropped it.
    origin = InMemory(vq)
    quantized = compute_as(carry_over(patcher, load(origin), origin), compute)
    quantized = keep_decoded(quantized, spare)
    lines = (_sizes(vq, plan, how), expected, _advice(source.patched, seconds))
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


def _encode(
    source: ModelSource, plan: Plan, effort: str, sampling: int, display: _Display
) -> tuple[VQModel, float, str]:
    """The coded model, the seconds that took, and what was expected before."""
    device = comfy.model_management.get_torch_device()
    largest = max(layer.numel for layer in plan.layers)
    comfy.model_management.free_memory(_WORKING_BYTES + _COPIES * 4 * largest, device)
    _raise_if_interrupted()
    expected = estimate(plan, effort, device, sampling, _raise_if_interrupted)
    display.say(str(expected))
    if advice := _advice(source.patched, expected.seconds):
        log.warning("VQ: %s", advice)
    started = time.perf_counter()
    vq = quantize(source, plan.target, effort=effort, device=device, progress=display, plan=plan)
    seconds = time.perf_counter() - started
    comfy.model_management.soft_empty_cache()
    return vq, seconds, str(expected)


def patterns(lines: str) -> list[str]:
    """One pattern a line; empty lines do not count."""
    return [line.strip() for line in lines.splitlines() if line.strip()]


def _sizes(vq: VQModel, plan: Plan, how: str) -> str:
    dense = plan.other_bits + sum(layer.numel * layer.itemsize_bits for layer in plan.layers)
    return (
        f"{vq.source.name}: {vq.bits_per_weight:.3f} bits per weight, everything counted; "
        f"{dense / 8e6:.1f} MB -> {vq.nbytes / 1e6:.1f} MB; {how}"
    )


def _advice(patched: int, seconds: float) -> str:
    """What somebody who keeps changing a LoRA should know; empty where there is none."""
    if not patched:
        return ""
    return (
        f"{patched} weights carry patches (a LoRA, for instance), which are baked in: any change of them "
        f"codes the model anew (about {duration(seconds)}). To change them freely, put them after VQ "
        "Quantize Model."
    )


def _raise_if_interrupted(_: object = None) -> None:
    comfy.model_management.throw_exception_if_processing_interrupted()


class _Display:
    """Shows progress in the interface and the log, and passes on the user's wish to stop."""

    def __init__(self, node_id: str | None) -> None:
        self._bar: comfy.utils.ProgressBar | None = None
        self._node_id = node_id
        self._shown = self._logged = time.perf_counter()

    def say(self, line: str) -> None:
        log.info("VQ: %s", line)
        _show_text(line, self._node_id)

    def __call__(self, progress: Progress) -> None:
        _raise_if_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(progress.total)
        self._bar.update_absolute(progress.done)
        now = time.perf_counter()
        line = f"{100 * progress.done / max(1, progress.total):.0f} %"
        if progress.seconds_left is not None:
            line += f", {duration(progress.seconds_left)} left"
        if now - self._shown >= _SHOW_SECONDS:
            self._shown = now
            _show_text(line, self._node_id)
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.info("VQ: %s (%s)", line, progress.layer)


def _show_text(text: str, node_id: str | None) -> None:
    """Put a line under the node, where a server is running."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
