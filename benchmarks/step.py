"""A step of an SDXL-shaped UNet in the real ComfyUI, VQ against dense: time and peak memory.

    python -m benchmarks.step sdxl-random.safetensors sdxl-random-fast-VQ3.0.safetensors \\
        [--dtype bf16] [--pixels 512] [--modes eager]
    python -m benchmarks.step --random FOLDER     (makes both files there, of random weights and codes)

Each row is a process of its own: the host's loader, then its sampler (euler, guidance in a batch of
2) on random conditioning. Weights of the dense model and computation are of ``--dtype``, which a
layer in the middle is watched for: on a CPU ComfyUI by itself would widen them to float32.
The step is one call of the UNet, the median of all but the first, the device's work included.

Modes: eager; compiled (the host's TorchCompileModel); graphs (a UNet call in a CUDA graph,
replayed); streamed (``--novram``: weights stay in system memory); dynamic (the host's DynamicVRAM).

Memory in GB. Of the process: its largest resident set while sampling, over that of a ComfyUI that
has loaded nothing; on a graphics card also what torch has allocated there. "resident" is what is
still held when the sampling is over: weights and buffers that stay. "activations" is the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.commands import last_line
from benchmarks.random_vq import random_sdxl
from benchmarks.sdxl_load import comfyui_folder
from benchmarks.step_child import DTYPES
from benchmarks.timing import markdown, where
from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored, write_dense
from comfy_vq.hosts.locate import comfyui_version
from comfy_vq.model import VQModel

MODES = ("eager", "compiled", "graphs", "streamed", "dynamic")
ON_A_CARD_ONLY = MODES[1:]
MODELS = ("dense", "VQ", "VQ int8")
PEAKS = ("peak", "resident", "activations")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="*", help="the dense file and the VQ file")
    parser.add_argument(
        "--random", type=Path, help="a folder for files of random weights and codes"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--pixels", type=int, default=1024, help="height and width")
    parser.add_argument("--steps", type=int, default=4, help="of the longer sampling run")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=MODELS[:2])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=["eager"])
    parser.add_argument("--seconds", type=float, default=1800, help="that a process may take")
    args = parser.parse_args()
    if bool(args.files) == bool(args.random) or len(args.files) not in (0, 2):
        parser.error("give a dense file and a VQ file, or --random FOLDER")
    files = args.files or write_random(args.random)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"ComfyUI {comfyui_version(comfyui_folder())}, {where(device)}")
    print(f"{args.pixels} x {args.pixels} pixels, {args.dtype}", end="")
    print(", random weights and random codes\n" if args.random else f", {files[1].name}\n")
    rows, failures = [], []
    for mode in args.modes:
        if mode in ON_A_CARD_ONLY and device.type != "cuda":
            failures.append(f"{mode}: needs a graphics card")
            continue
        dense = None
        for name in args.models:
            result = run(files[name != "dense"], name, mode, args)
            if isinstance(result, str):
                failures.append(f"{mode}, {name}: {result}")
                continue
            rows.append([mode, name, *cells(result)])
            failures += [
                f"{mode}, {name}: {wrong}" for wrong in surprises(result, name, args.dtype)
            ]
            if name == "dense":
                dense = result
            elif dense is not None:
                rows.append([mode, f"{name} / dense", *ratios(result, dense)])
    print(markdown(head(device.type == "cuda"), rows))
    for failure in failures:
        print(f"\nNOT MEASURED OR NOT AS ASKED FOR: {failure}")
    return 1 if any("needs a graphics card" not in failure for failure in failures) else 0


def run(path: Path, name: str, mode: str, args: argparse.Namespace) -> dict[str, Any] | str:
    """What a process of its own measured, or what became of it."""
    _read_once(path)
    compute = "int8" if name == "VQ int8" else "exact"
    words = [str(path), compute, mode, args.dtype, str(args.pixels), str(args.steps)]
    command = [sys.executable, "-m", "benchmarks.step_child", *words]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=args.seconds
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {args.seconds:g} s"
    if done.returncode:
        return f"ended with {done.returncode}: {last_line(done.stderr)[:300]}"
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{mode}, {name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if os.environ.get("VERBOSE"):
        print(json.dumps(found), file=sys.stderr)
    return with_activations(found)


def with_activations(found: dict[str, Any]) -> dict[str, Any]:
    """Adds what a step takes beyond what is resident."""
    found["activations"] = max(0, found["peak"] - found["resident"])
    if found["device_peak"] is not None:
        found["device_activations"] = found["device_peak"] - found["device_resident"]
    return found


def surprises(found: dict[str, Any], name: str, dtype: str) -> list[str]:
    """What shows that a row is not of what was asked for."""
    wanted = str(DTYPES[dtype]).removeprefix("torch.")
    wrong = []
    if found["dtypes"] != [wanted]:
        wrong.append(f"layers were given {', '.join(found['dtypes'])}, not {wanted}")
    if found["batches"] != [2]:
        wrong.append(f"batches of {found['batches']}, not of 2")
    if (found["int8_layers"] > 0) != (name == "VQ int8"):
        wrong.append(f"{found['int8_layers']} layers computed in int8")
    if not found["finite"]:
        wrong.append("the latents are not finite")
    return wrong


def head(card: bool) -> list[str]:
    return ["mode", "model", "load s", "step s", "peak at load", *PEAKS] + [
        f"device {name}" for name in (*PEAKS, "used")
    ] * card


def cells(found: dict[str, Any]) -> list[str]:
    times = [f"{found['load_seconds']:.1f}", f"{found['seconds']:.3f}"]
    return [*times, *(f"{found[key] / 1e9:.2f}" for key in _keys(found))]


def ratios(vq: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    keys = ["load_seconds", "seconds", *_keys(dense)]
    return [f"{vq[key] / dense[key]:.2f}x" if dense[key] > 0 else "-" for key in keys]


def _keys(found: dict[str, Any]) -> list[str]:
    """Of the columns of memory."""
    on_card = [f"device_{name}" for name in (*PEAKS, "used")]
    return ["load_peak", *PEAKS, *(on_card if found["device_peak"] is not None else [])]


def write_random(folder: Path) -> list[Path]:
    """A VQ file with random codes and the dense one that it decodes to, once."""
    folder.mkdir(parents=True, exist_ok=True)
    dense, coded = folder / "random-dense.safetensors", folder / "random-VQ3.safetensors"
    if not coded.exists():
        checkpoint.save(coded, random_sdxl())
    if not dense.exists():
        _write_decoded(dense, checkpoint.load(coded))
    return [dense, coded]


def _write_decoded(path: Path, model: VQModel) -> None:
    """``checkpoint.write_decoded`` on a graphics card where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prefix = model.source.prefix
    tensors = {prefix + key: Stored.of(tensor) for key, tensor in model.dense.items()}
    for name, weight in model.layers.items():
        tensors[f"{prefix}{name}.weight"] = Stored(
            torch.float16,
            weight.shape,
            lambda w=weight: w.to(device).decode(torch.float16).cpu().contiguous(),
        )
    write_dense(path, tensors)


def _read_once(path: Path) -> None:
    """So that all are loaded from the operating system's cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


if __name__ == "__main__":
    sys.exit(main())
