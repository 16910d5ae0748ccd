"""What a call of a layer costs the processor, whatever the device has to do for it."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import layers
from benchmarks.kernel_settings import Settings, guarded
from benchmarks.layers import Call, Missing
from benchmarks.timing import markdown
from comfy_vq import compute, kernels
from comfy_vq.ahead import Ahead
from comfy_vq.codecs import VQWeight
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import find_comfyui

REQUIRED = ("comfy_kitchen", "aiohttp", "transformers", "torchsde")
"""What tells an environment that ComfyUI runs in."""
_LAYERS = 10  # of a block, which may share a launch
_ROWS = 32  # integer products on graphics cards want more than 16


def overhead_table(settings: Settings, width: int = 128) -> str:
    """Microseconds of the processor, by layer, on layers so small that a card waits for it.

    Without a card the decoding of ``width**2`` weights is in it. ComfyUI's own layers, if there is
    one, come last, since it changes settings of torch.
    """
    x, bias = settings.normal(_ROWS, width), settings.normal(width)
    coded = settings.coded((width, width))
    dense = coded.decode(settings.dtype)
    found = {
        "torch, dense": _microseconds(lambda: F.linear(x, dense, bias), settings),
        "VQ exact": _microseconds(lambda: compute.linear(x, coded, bias), settings),
        "VQ int8": _microseconds(
            layers.int8_missing() or (lambda: layers.int8_linear(x, coded, bias)), settings
        ),
    }
    rows = _rows(found, "torch, dense")
    missing = no_comfyui()
    if missing:
        return markdown(_HEAD, rows) + f"\n\nNot measured in ComfyUI: {missing}"
    calls = _in_comfyui(coded, dense, bias, x)
    found = {name: _microseconds(call, settings, _LAYERS) for name, call in calls.items()}
    return markdown(_HEAD, rows + _rows(found, "ComfyUI, dense"))


_HEAD = ["layer", "microseconds a call", "beyond dense"]


def no_comfyui() -> str:
    """Why nothing can be run in a ComfyUI here, or ""."""
    try:
        path = find_comfyui()
    except VQError as error:
        return str(error)
    if path is None:
        return "no ComfyUI found: set COMFYUI_PATH to the folder of its main.py"
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    return f"{sys.executable} lacks {', '.join(missing)}" if missing else ""


def _in_comfyui(
    coded: VQWeight, dense: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
) -> dict[str, Call | Missing]:
    """Calls of ``_LAYERS`` layers each: the host's own, and VQ layers, all on the device."""
    path = find_comfyui()
    assert path is not None
    boot(path)
    import comfy.ops

    from comfy_vq.hosts.comfy.model.layout import pending, settled
    from comfy_vq.hosts.comfy.model.ops import VQOperations

    def block(operations: type, weight: Any, ahead: Ahead | None = None) -> Call:
        made = []
        for _ in range(_LAYERS):
            layer = operations.Linear(*reversed(coded.shape), dtype=x.dtype, device=x.device)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)
            if ahead is not None:
                layer.slot = ahead.slot()
            made.append(layer)
        return lambda: [layer(x) for layer in made][-1]

    weight = settled(pending(coded), dense.dtype)
    in_batches = kernels.decodes_in_batches(x.dtype, x.device)
    return {
        "ComfyUI, dense": block(comfy.ops.disable_weight_init, dense),
        "ComfyUI, VQ, each by itself": block(VQOperations, weight),
        "ComfyUI, VQ, decoded ahead": block(VQOperations, weight, Ahead())
        if in_batches
        else Missing("no batches without Triton"),
        "ComfyUI, VQ, kept decoded": block(VQOperations, weight, Ahead(spare=1 << 30)),
    }


def _microseconds(call: Call | Missing, settings: Settings, layers: int = 1) -> float | Missing:
    """Of the processor for each of the ``layers`` that a call runs."""
    if isinstance(call, Missing):
        return call
    return guarded(lambda: 1e6 * settings.timer.host_seconds(call, 100 // layers) / layers)


def _rows(found: dict[str, float | Missing], dense: str) -> list[list[str]]:
    base, rows = found[dense], []
    for name, taken in found.items():
        if isinstance(taken, Missing):
            rows.append([name, taken.reason, "-"])
            continue
        beyond = "-" if isinstance(base, Missing) else f"{taken - base:.1f}"
        rows.append([name, f"{taken:.1f}", beyond])
    return rows
