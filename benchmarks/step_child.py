"""One model in a ComfyUI of its own: time and memory of a step. ``benchmarks.step`` starts it."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.sdxl_load import comfyui_folder, memory
from benchmarks.step_memory import idle, largest, on_device, peaks, reset_peaks
from comfy_vq import checkpoint
from comfy_vq.hosts.comfy_boot import boot

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
OPTIONS = {"streamed": ("--novram", "--disable-dynamic-vram")}
"""Options of ComfyUI by mode; ``--novram`` keeps weights in system memory."""
REPLAYS = 10


@dataclass
class Calls:
    """Wraps every call of the diffusion model by the host's sampler: times, batches and inputs.

    Attributes:
        seconds: of each call, the device's work included.
        batches: inputs of each call; guidance makes 2 unless memory is scarce.
        last: what the last call was given.
    """

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    last: tuple[Callable[..., Tensor], Tensor, Tensor, dict[str, Any]] | None = None

    def __call__(self, apply: Callable[..., Tensor], arguments: dict[str, Any]) -> Tensor:
        x, sigma, conditions = arguments["input"], arguments["timestep"], arguments["c"]
        self._wait()
        started = time.perf_counter()
        output = apply(x, sigma, **conditions)
        self._wait()
        self.seconds.append(time.perf_counter() - started)
        self.batches.append(x.shape[0])
        self.last = apply, x, sigma, conditions
        return output

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(
    path: Path, compute: str, mode: str, dtype: torch.dtype, pixels: int, steps: int
) -> dict[str, Any]:
    """Load ``path`` through the host's loader and sample through its sampler.

    Returns:
        JSON values: seconds of a step, bytes of memory, and what shows that they are of what was
        asked for.
    """
    boot(
        comfyui_folder(),
        options=OPTIONS.get(mode, ("--disable-dynamic-vram",) * (mode != "dynamic")),
    )
    if mode == "dynamic":
        enable_dynamic_vram()
    import comfy.model_management

    device = comfy.model_management.get_torch_device()
    empty, before = memory()["VmRSS"], on_device(device)
    with torch.inference_mode():
        started = time.perf_counter()
        patcher = _load(path, compute, dtype)
        load_seconds = time.perf_counter() - started
        load_peak = largest() - empty
        reset_peaks(device)
        seen: set[str] = set()
        hook = _watch(patcher, seen)
        calls = Calls(device)
        finite = sample_once(patcher, calls, pixels, 1)
        hook.remove()
        if mode == "compiled":
            patcher = _compiled(patcher)
            sample_once(patcher, calls, pixels, 1)
            calls.seconds.clear()
            reset_peaks(device)
        if mode != "graphs":
            finite = sample_once(patcher, calls, pixels, steps)
            found = calls.seconds[1:]
            extra = {}
        else:
            found, extra = _replays(calls)
        found_peaks = peaks(device, empty)
        calls.last = None
        resident = idle(device, empty, before)
    return {
        "seconds": statistics.median(found),
        "all_seconds": found,
        "load_seconds": load_seconds,
        "load_peak": load_peak,
        **found_peaks,
        **resident,
        "coded_or_dense_bytes": patcher.model_size(),
        "dtypes": sorted(seen),
        "batches": sorted(set(calls.batches)),
        "int8_layers": _int8_layers(patcher),
        "finite": finite,
        "patcher": type(patcher).__name__,
        "device": str(device),
        **extra,
    }


def _load(path: Path, compute: str, dtype: torch.dtype) -> Any:
    """A MODEL that computes in ``dtype`` whatever the host would choose; dense weights are held in it."""
    import comfy.sd

    from comfy_vq.hosts.comfy.model.compute_mode import compute_as
    from comfy_vq.hosts.comfy.model.loader import load_file

    if checkpoint.is_vq(path):
        patcher = compute_as(load_file(str(path)), compute)
    else:
        patcher = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    if patcher.model.get_dtype_inference() != dtype:
        patcher.set_model_compute_dtype(dtype)
    return patcher


def _int8_layers(patcher: Any) -> int:
    """How many layers computed in int8 in the last sampling."""
    from comfy_vq.hosts.comfy.model.compute_mode import mode_of

    mode = mode_of(patcher.model)
    return 0 if mode is None else sum(choice.int8 for choice in mode.choices)


def _watch(patcher: Any, seen: set[str]) -> Any:
    """Record the dtypes that layers in the middle of the network are given."""

    def note(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.add(str(inputs[0].dtype).removeprefix("torch."))

    layers = dict(patcher.model.diffusion_model.named_modules())
    inside = [layer for name, layer in layers.items() if name.endswith("ff.net.2")]
    return inside[len(inside) // 2].register_forward_pre_hook(note)


def sample_once(patcher: Any, calls: Calls, pixels: int, steps: int) -> bool:
    """Sample with guidance by the host's sampler; whether the latents are finite."""
    import nodes

    model = patcher.clone()
    model.set_model_unet_function_wrapper(calls)
    width = patcher.model.model_config.unet_config["context_dim"]
    generator = torch.Generator().manual_seed(0)
    positive, negative = (
        [
            [
                torch.randn(1, 77, width, generator=generator),
                {"pooled_output": torch.randn(1, 1280, generator=generator)},
            ]
        ]
        for _ in range(2)
    )
    latent = {"samples": torch.zeros(1, 4, pixels // 8, pixels // 8)}
    (sampled,) = nodes.common_ksampler(
        model, 0, steps, 5.0, "euler", "normal", positive, negative, latent
    )
    return math.isfinite(float(sampled["samples"].abs().sum()))


def _compiled(patcher: Any) -> Any:
    """As the host's node TorchCompileModel does it."""
    from comfy_extras.nodes_torch_compile import TorchCompileModel

    return TorchCompileModel.execute(patcher, "inductor").args[0]


def _replays(calls: Calls) -> tuple[list[float], dict[str, Any]]:
    """Capture the last call of the model in a CUDA graph; seconds of replays.

    Raises:
        RuntimeError: something in the call cannot be captured, or the replay gives something else.
    """
    assert calls.last is not None
    apply, x, sigma, conditions = calls.last
    x, sigma = x.clone(), sigma.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = apply(x, sigma, **conditions)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = apply(x, sigma, **conditions)
    found = []
    for _ in range(REPLAYS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    error = float((output - expected).norm() / expected.norm())
    if not error < 1e-2:
        raise RuntimeError(f"the graph's output differs from the eager one by {error:.3g}")
    return found, {"graph_error": error}


def enable_dynamic_vram() -> None:
    """What the host's ``main.py`` does where it finds an NVIDIA card.

    Raises:
        RuntimeError: it does not start here.
    """
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy_aimdo.control

    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        raise RuntimeError("DynamicVRAM needs a graphics card, and there is none")
    devices = [device.index]
    if not comfy_aimdo.control.init() or not comfy_aimdo.control.init_devices(devices):
        raise RuntimeError("comfy-aimdo does not start here, so the host has no DynamicVRAM")
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


def main() -> None:
    path, compute, mode, dtype, pixels, steps = sys.argv[1:]
    found = measure(Path(path), compute, mode, DTYPES[dtype], int(pixels), int(steps))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
