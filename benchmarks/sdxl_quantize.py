"""Quantizes a checkpoint of SDXL's size by the command line: time, peak memory, size, honesty.

    python -m benchmarks.sdxl_checkpoint sdxl-random.safetensors
    python -m benchmarks.sdxl_quantize sdxl-random.safetensors --efforts fast balanced

Peak memory is the process's largest resident set, as the operating system counts it. The time left
that the progress bar showed at a quarter, half and three quarters of the way is compared with what
was really left. On a graphics card: ``--device cuda``. ``--codecs trellis`` codes by that one.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import torch

from comfy_vq import checkpoint
from comfy_vq.codecs import CODECS

_SHOWN = re.compile(rb"\| (\d+(?::\d+)+), (\d+(?::\d+)+) left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--bits", default="3.0")
    parser.add_argument("--efforts", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS[:1])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print(f"{os.cpu_count()} x {_processor()}, torch {torch.__version__}, {args.device}")
    print(
        "| effort | minutes | peak GB | file GB | bits/weight | left at 25/50/75 %: said / true |"
    )
    print("|---|---|---|---|---|---|")
    for codec, effort in product(args.codecs, args.efforts):
        label = effort if codec == CODECS[0] else f"{codec}-{effort}"
        out = args.source.with_name(f"{args.source.stem}-{label}-VQ{args.bits}.safetensors")
        options = ["--bits", args.bits, "--codec", codec, "--effort", effort]
        options += ["--device", args.device, "--force"]
        command = [sys.executable, "-m", "comfy_vq", "quantize", str(args.source), str(out)]
        seconds, peak, bar = _watched(command + options)
        header = checkpoint.inspect(out)
        print(
            f"| {label} | {seconds / 60:.1f} | {peak / 1e9:.2f} "
            f"| {out.stat().st_size / 1e9:.4f} | {header.bits_per_weight:.4f} "
            f"| {', '.join(_honesty(bar))} |",
            flush=True,
        )


def _watched(command: list[str]) -> tuple[float, int, bytes]:
    """Seconds, largest resident set in bytes, and the progress bar of a process."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    bar = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{bar[-2000:].decode(errors='replace')}")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.monotonic() - started, usage.ru_maxrss * unit, bar


def _honesty(bar: bytes) -> list[str]:
    shown = [(_seconds(elapsed), _seconds(left)) for elapsed, left in _SHOWN.findall(bar)]
    end = shown[-1][0] + shown[-1][1]
    found = []
    for share in (0.25, 0.5, 0.75):
        elapsed, left = min(shown, key=lambda pair: abs(pair[0] - share * end))
        found.append(f"{left / 60:.1f} / {(end - elapsed) / 60:.1f}")
    return found


def _seconds(clock: bytes) -> int:
    total = 0
    for part in clock.split(b":"):
        total = 60 * total + int(part)
    return total


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
