"""Loads a VQ file and its dense source in the real ComfyUI: resident memory, time, one step.

    python -m benchmarks.sdxl_load sdxl-random.safetensors sdxl-random-fast-VQ3.0.safetensors

Needs the environment of a ComfyUI, found as the tests find it. Each row is a process of its own;
files are read once before, so that both are timed from the operating system's cache. Memory is
the resident set, in GB over that of a ComfyUI that has loaded nothing. "private" leaves out the
pages of mapped files, which the operating system may drop at any time. The step is one of euler
at 256 x 256 pixels with guidance, on random conditioning; its peak is the largest resident set so far.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version, find_comfyui


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_measure(args.files[0])))
        return
    print(f"ComfyUI {comfyui_version(comfyui_folder())}, {sys.platform}")
    print("| file | load s | resident GB | private GB | step s | peak GB | latent |")
    print("|---|---|---|---|---|---|---|")
    for path in args.files:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
        command = [sys.executable, "-m", "benchmarks.sdxl_load", "--child", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {path.name} | {found['load']:.2f} | {found['resident']:.2f} "
            f"| {found['private']:.2f} | {found['step']:.1f} | {found['peak']:.2f} "
            f"| {'finite' if found['finite'] else 'NOT FINITE'} |",
            flush=True,
        )


def comfyui_folder() -> Path:
    found = find_comfyui()
    if found is None:
        raise VQError("no ComfyUI was found: set COMFYUI_PATH to the folder of its main.py")
    return found


def _measure(path: Path) -> dict[str, float | bool]:
    boot(comfyui_folder())
    import comfy.sd
    import nodes
    import torch

    from comfy_vq.hosts.comfy.model.loader import load_file

    empty = memory()
    with torch.inference_mode():
        started = time.perf_counter()
        if checkpoint.is_vq(path):
            model = load_file(str(path))
        else:
            model = comfy.sd.load_diffusion_model(str(path))
        loaded = time.perf_counter()
        after = memory()
        generator = torch.Generator().manual_seed(0)
        context = torch.randn(1, 77, 2048, generator=generator)
        positive = [[context, {"pooled_output": torch.randn(1, 1280, generator=generator)}]]
        latent = {"samples": torch.zeros(1, 4, 32, 32)}
        began = time.perf_counter()
        (sampled,) = nodes.common_ksampler(
            model, 0, 1, 5.0, "euler", "normal", positive, positive, latent
        )
        stepped = time.perf_counter()
    return {
        "load": loaded - started,
        "resident": (after["VmRSS"] - empty["VmRSS"]) / 1e9,
        "private": (after["RssAnon"] - empty["RssAnon"]) / 1e9,
        "step": stepped - began,
        "peak": (memory()["VmHWM"] - empty["VmRSS"]) / 1e9,
        "finite": math.isfinite(float(sampled["samples"].abs().sum())),
    }


def memory() -> dict[str, int]:
    """Bytes by name, from Linux's account of this process: VmRSS, VmHWM, RssAnon and others."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines if line.endswith("kB"))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


if __name__ == "__main__":
    main()
