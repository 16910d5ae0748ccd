"""From a dense MODEL to a VQ MODEL, within a running graph."""

from __future__ import annotations

import logging
import time

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher

from ...model import VQModel
from ...plan import Plan
from ...quantize import Progress, plan_for, quantize
from .carry import carry_over
from .loader import InMemory, load
from .source import ModelSource

log = logging.getLogger(__name__)

_SHOW_SECONDS = 0.5
_LOG_SECONDS = 10.0

# What is freed on a GPU before encoding: the encoder's working memory, which does not grow with the
# layer, and copies of the largest weight in float32.
_WORKING_BYTES = 2 << 30
_COPIES = 4


def quantize_model(
    patcher: ModelPatcher, bits: float, effort: str, exclude: str, node_id: str | None = None
) -> tuple[ModelPatcher, str]:
    """A VQ MODEL that otherwise behaves as ``patcher``, which is not changed, and a report.

    Args:
        bits: average number of bits per weight of the whole diffusion model.
        effort: ``fast``, ``balanced`` or ``best``.
        exclude: patterns of layers to leave alone, one a line.
        node_id: where the interface shows the remaining time.

    Raises:
        VQError: see ``ModelSource`` and ``quantize``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    started = time.perf_counter()
    source = ModelSource(patcher)
    plan = plan_for(source, bits, exclude=patterns(exclude))
    device = comfy.model_management.get_torch_device()
    largest = max(layer.numel for layer in plan.layers)
    comfy.model_management.free_memory(_WORKING_BYTES + _COPIES * 4 * largest, device)
    vq = quantize(source, bits, effort=effort, device=device, progress=_Display(node_id), plan=plan)
    comfy.model_management.soft_empty_cache()
    origin = InMemory(vq)
    quantized = carry_over(patcher, load(origin), origin)
    return quantized, report(vq, plan, time.perf_counter() - started)


def patterns(lines: str) -> list[str]:
    """One pattern a line; empty lines do not count."""
    return [line.strip() for line in lines.splitlines() if line.strip()]


def report(vq: VQModel, plan: Plan, seconds: float) -> str:
    """What was done, for people."""
    dense = plan.other_bits + sum(layer.numel * layer.itemsize_bits for layer in plan.layers)
    return (
        f"{vq.source.name}: {vq.bits_per_weight:.3f} bits per weight, everything counted; "
        f"{dense / 8e6:.1f} MB -> {vq.nbytes / 1e6:.1f} MB in {_duration(seconds)}\n\n{plan.table()}"
    )


class _Display:
    """Shows progress in the interface and the log, and passes on the user's wish to stop."""

    def __init__(self, node_id: str | None) -> None:
        self._bar: comfy.utils.ProgressBar | None = None
        self._node_id = node_id
        self._shown = self._logged = time.perf_counter()

    def __call__(self, progress: Progress) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(progress.total)
        self._bar.update_absolute(progress.done)
        now = time.perf_counter()
        line = f"{100 * progress.done / max(1, progress.total):.0f} %"
        if progress.seconds_left is not None:
            line += f", {_duration(progress.seconds_left)} left"
        if now - self._shown >= _SHOW_SECONDS:
            self._shown = now
            _show_text(line, self._node_id)
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.info("VQ: %s (%s)", line, progress.layer)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _show_text(text: str, node_id: str | None) -> None:
    """Put a line under the node, where a server is running."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
