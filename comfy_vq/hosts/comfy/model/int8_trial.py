"""Whether int8 works on a device, and whether it is worth it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor

from .... import compute
from ....codecs import VQWeight, get, shipped_set, spec_for
from . import int8
from .layout import coded, decode, pending, settled

log = logging.getLogger(__name__)

WORTH = 0.8
"""The share of exact's time that int8 may take at most where ``auto`` chooses it."""

_TOKENS, _WIDTH = 2048, 1280  # the linear layer that SDXL has most of
_WARM_UPS, _RUNS = 3, 10
_TOLERANCE = 0.05


@cache
def broken(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why int8 cannot be used on a device with activations of a dtype; None where a small case is right."""
    try:
        weight = _weight(64, 128, device)
        for tokens in (1, 3, 40):  # graphics cards have other kernels for few rows
            x = torch.randn((1, tokens, 128), generator=torch.Generator().manual_seed(tokens))
            x = x.to(device, dtype)
            expected = F.linear(x.float(), decode(weight, torch.float32))
            error = (int8.linear(x, weight, None).float() - expected).norm() / expected.norm()
            if not error < _TOLERANCE:
                return f"wrong by {error:.1%} for {tokens} rows"
        error, signal = int8.rounding(x, weight).tolist()
        if not 0 < error < _TOLERANCE**2 * signal:
            return f"activations measured to be wrong by {(error / signal) ** 0.5:.1%}"
    except Exception as error:  # noqa: BLE001 - whatever a driver or a compiler raises
        return str(error).partition("\n")[0] or type(error).__name__
    return None


@cache
def pays(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether int8 takes at most ``WORTH`` of exact's time; False where that cannot be timed.

    Tried once per process, on a layer of the usual size.
    """
    if device.type != "cuda" or broken(device, dtype) is not None:
        return False
    try:
        exact, fast = _times(device, dtype)
    except RuntimeError as error:  # such as of memory
        log.info("VQ: int8 could not be timed on %s: %s", device, str(error).partition("\n")[0])
        return False
    chosen = fast <= WORTH * exact
    log.info(
        "VQ: a linear layer of %dx%dx%d on %s takes %.3f ms exact, %.3f ms in int8: %s",
        *(_TOKENS, _WIDTH, _WIDTH, device, exact, fast, "int8" if chosen else "exact"),
    )
    return chosen


def _times(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Milliseconds of a linear layer, exact and in int8."""
    weight = _weight(_WIDTH, _WIDTH, device)
    x = torch.randn((_TOKENS, _WIDTH), device=device).to(dtype)
    exact = _milliseconds(lambda: compute.linear(x, coded(weight), None))
    return exact, _milliseconds(lambda: int8.linear(x, weight, None))


def _weight(rows: int, width: int, device: torch.device) -> QuantizedTensor:
    """Random codes of 3 bits under a rotation."""
    generator = torch.Generator().manual_seed(0)
    spec = spec_for("additive", 3, (rows, width))
    shape = get("additive").pieces(spec, (rows, width))["codes"].shape
    codes = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    pieces = {"codes": codes, "scales": torch.ones(rows, dtype=torch.float16)}
    weight = VQWeight(spec, (rows, width), torch.float32, pieces, shipped_set(3))
    return settled(pending(weight.to(device)), torch.float32)


def _milliseconds(run: Callable[[], Tensor]) -> float:
    """The fastest of some runs, so that what else happens on the card does not decide."""
    for _ in range(_WARM_UPS):
        run()
    times = []
    for _ in range(_RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
