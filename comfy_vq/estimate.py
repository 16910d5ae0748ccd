"""What a quantization will cost, before it starts."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import codecs
from .budget import coded_bytes
from .codecs.registry import OnProgress
from .plan import Choice, Plan
from .progress import work_per_weight

_SAMPLING = "sampling one picture"
_MEASURE_SECONDS = 0.5
_TIMED = 2
_LEAST_RUNS = 2
_CPU_SAMPLE = 1 << 18
_SAMPLE = 1 << 22
"""Weights to encode at a time: as many as keep each thread of a CPU, or another device, busy."""
_LEAST_SAMPLE = 1 << 12
_SPEND = 1 / 16
"""Of a small model, at most this part is encoded to measure."""
_OWN_SET_SAMPLE = 40960 * 8
"""Weights from which on the training of a set costs the same for every layer."""


@dataclass(frozen=True)
class Estimate:
    """What to expect of a quantization.

    Attributes:
        file_bytes: of the VQ checkpoint.
        seconds: to encode on the device at hand.
        sampling_bytes: graphics memory while the result samples one picture, or does what else it
            is for.
        doing: what that is.
    """

    file_bytes: int
    seconds: float
    sampling_bytes: int
    doing: str = _SAMPLING

    def __str__(self) -> str:
        return (
            f"estimated: {self.file_bytes / 1e6:.1f} MB on disk, {duration(self.seconds)} to quantize, "
            f"{self.sampling_bytes / 1e9:.2f} GB of graphics memory while {self.doing}"
        )


def estimate(
    plan: Plan,
    effort: str,
    device: torch.device | str,
    sampling_bytes: int,
    on_progress: OnProgress | None = None,
    doing: str = _SAMPLING,
) -> Estimate:
    """Size, time and memory of a plan; see ``encoding_seconds`` for how long this takes."""
    seconds = encoding_seconds(plan, effort, device, on_progress)
    return Estimate(coded_bytes(plan), seconds, sampling_bytes, doing)


def encoding_seconds(
    plan: Plan, effort: str, device: torch.device | str, on_progress: OnProgress | None = None
) -> float:
    """Seconds to encode by a plan on a device, from encoding a few random weights there.

    The two widths that most of the work goes into are timed, the others judged by them. Takes
    about half a second; at an effort that trains codebook sets, as long as one of them on top.

    Args:
        on_progress: called while weights are encoded, as by ``codecs.encode``; may raise.
    """
    weights: Counter[Choice] = Counter()
    for layer in plan.layers:
        if plan.choices[layer.name].codec is not None:
            weights[plan.choices[layer.name]] += layer.numel
    if not weights:
        return 0.0
    work = Counter({choice: n * work_per_weight(choice) for choice, n in weights.items()})
    timed = [choice for choice, _ in work.most_common(_TIMED)]
    sample = _sample(plan, weights.total(), torch.device(device))
    encode = partial(_encode, effort=effort, on_progress=on_progress)
    spent = sum(weights[choice] * _seconds_per_weight(encode, sample, choice) for choice in timed)
    by_work = spent * work.total() / sum(work[choice] for choice in timed)
    if not codecs.EFFORTS[effort].own_sets:
        return by_work
    return by_work + _own_set_seconds(encode, plan, torch.device(device))


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 3 min 20 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _seconds_per_weight(encode: Callable[..., None], sample: Tensor, choice: Choice) -> float:
    """The best of a few runs after one to warm up: what disturbs a run only makes it longer."""
    encode(sample[: max(1, len(sample) // 16)], choice)
    best, spent, runs = math.inf, 0.0, 0
    while runs < _LEAST_RUNS or spent < _MEASURE_SECONDS / _TIMED:
        started = time.perf_counter()
        encode(sample, choice)
        seconds = time.perf_counter() - started
        best, spent, runs = min(best, seconds), spent + seconds, runs + 1
    return best / sample.numel()


def _encode(
    sample: Tensor,
    choice: Choice,
    effort: str,
    on_progress: OnProgress | None,
    own_codebooks: bool = False,
) -> None:
    assert choice.codec is not None
    options: dict[str, Any] = {"effort": effort, "on_progress": on_progress}
    if choice.codec != "int8":
        options["unbiased"] = True
    if choice.codec == "additive":
        options["own_codebooks"] = own_codebooks
    coded = codecs.encode(sample, choice.bits, choice.codec, **options)
    next(iter(coded.tensors.values())).cpu()  # waits for the device


def _own_set_seconds(encode: Callable[..., None], plan: Plan, device: torch.device) -> float:
    """Training of codebook sets at effort ``best``, which takes as long for all large layers."""
    chosen = (plan.choices[layer.name] for layer in plan.layers if layer.numel >= _OWN_SET_SAMPLE)
    trained = Counter(choice for choice in chosen if choice.codec == "additive")
    if not trained:
        return 0.0
    choice = trained.most_common(1)[0][0]
    sample = _random((_OWN_SET_SAMPLE // 1024, 1024), device)
    started = time.perf_counter()
    encode(sample, choice, own_codebooks=True)
    between = time.perf_counter()
    encode(sample, choice)
    return trained.total() * max(0.0, 2 * between - started - time.perf_counter())


def _sample(plan: Plan, coded: int, device: torch.device) -> Tensor:
    """A weight of the plan's most common input width, about as large as most weights lie in."""
    widths: Counter[int] = Counter()
    for layer in plan.layers:
        if plan.choices[layer.name].codec is not None:
            widths[layer.shape[1]] += layer.numel
    width = widths.most_common(1)[0][0]
    most = _SAMPLE
    if device.type == "cpu":
        slow = any(choice.codec == "trellis" for choice in plan.choices.values())
        most = (_CPU_SAMPLE >> 3 * slow) * torch.get_num_threads()
    size = max(_LEAST_SAMPLE, min(most, _typical_size(plan, coded), int(coded * _SPEND)))
    return _random((max(1, size // width), width), device)


def _typical_size(plan: Plan, coded: int) -> int:
    """Half of all coded weights lie in layers that are at least as large."""
    seen = 0
    for size in sorted(
        (layer.numel for layer in plan.layers if plan.choices[layer.name].codec is not None),
        reverse=True,
    ):
        seen += size
        if 2 * seen >= coded:
            return size
    return coded


def _random(shape: tuple[int, int], device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(device)
