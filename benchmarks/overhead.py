"""What a call of a layer costs the processor, whatever the device has to do for it."""

from __future__ import annotations

import importlib.util
import sys

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import layers
from benchmarks.kernel_settings import Settings, guarded
from benchmarks.layers import Call, Missing
from benchmarks.timing import markdown
from comfy_vq import compute
from comfy_vq.codecs import VQWeight
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import find_comfyui

REQUIRED = ("comfy_kitchen", "aiohttp", "transformers", "torchsde")
"""What tells an environment that ComfyUI runs in."""
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
    ours, theirs = _in_comfyui(coded, dense, bias)
    found = {
        "ComfyUI, dense": _microseconds(lambda: theirs(x), settings),
        "ComfyUI, VQ exact": _microseconds(lambda: ours(x), settings),
    }
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
    coded: VQWeight, dense: torch.Tensor, bias: torch.Tensor
) -> tuple[nn.Module, nn.Module]:
    """A VQ layer and the host's own, which are loaded completely."""
    path = find_comfyui()
    assert path is not None
    boot(path)
    import comfy.ops

    from comfy_vq.hosts.comfy.layout import pending, settled
    from comfy_vq.hosts.comfy.ops import VQOperations

    rows, columns = coded.shape
    weights = {
        VQOperations: settled(pending(coded), dense.dtype),
        comfy.ops.disable_weight_init: dense,
    }
    made = []
    for operations, weight in weights.items():
        layer = operations.Linear(columns, rows, dtype=dense.dtype, device=dense.device)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = nn.Parameter(bias, requires_grad=False)
        made.append(layer)
    return made[0], made[1]


def _microseconds(call: Call | Missing, settings: Settings) -> float | Missing:
    if isinstance(call, Missing):
        return call
    return guarded(lambda: 1e6 * settings.timer.host_seconds(call))


def _rows(found: dict[str, float | Missing], dense: str) -> list[list[str]]:
    base, rows = found[dense], []
    for name, taken in found.items():
        if isinstance(taken, Missing):
            rows.append([name, taken.reason, "-"])
            continue
        beyond = "-" if isinstance(base, Missing) else f"{taken - base:.1f}"
        rows.append([name, f"{taken:.1f}", beyond])
    return rows
