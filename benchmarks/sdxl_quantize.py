"""Quantizes a checkpoint of SDXL's size by the command line: time, peak memory, size, honesty.

    python -m benchmarks.sdxl_checkpoint sdxl-random.safetensors
    python -m benchmarks.sdxl_quantize sdxl-random.safetensors --efforts fast balanced

Peak memory is the process's largest resident set, as the operating system counts it. Processor minutes
are those of all its threads, which other processes change less than the clock. The time left
that the progress bar showed at a quarter, half and three quarters of the way is compared with what
was really left. On a graphics card: ``--device cuda``. ``--codecs trellis`` codes by that one.

``--share 0.1`` measures on every tenth layer in the order of their sizes and extrapolates, as the first column then
says: minutes and size by the number of weights, and memory by the result, which is held whole.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from benchmarks.sdxl_checkpoint import PREFIX
from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored, write_dense
from comfy_vq.codecs import CODECS

_SHOWN = re.compile(rb"\| (\d+(?::\d+)+), (\d+(?::\d+)+) left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--bits", default="3.0")
    parser.add_argument("--efforts", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=CODECS[:1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the layers, to extrapolate from"
    )
    args = parser.parse_args()
    print(f"{os.cpu_count()} x {_processor()}, torch {torch.__version__}, {args.device}")
    print(f"| {' | '.join(_HEAD)} |\n{'|---' * len(_HEAD)}|")
    with tempfile.TemporaryDirectory(dir=args.source.parent) as folder:
        source, factor = args.source, 1.0
        if args.share < 1:
            source = Path(folder) / args.source.name
            factor = write_share(args.source, source, args.share)
        for codec, effort in product(args.codecs, args.efforts):
            label = effort if codec == CODECS[0] else f"{codec}-{effort}"
            out = args.source.with_name(f"{args.source.stem}-{label}-VQ{args.bits}.safetensors")
            if args.share < 1:
                out, label = (
                    Path(folder) / out.name,
                    f"{label}, from {1 / factor:.1%} of the weights",
                )
            options = ["--bits", args.bits, "--codec", codec, "--effort", effort]
            options += ["--family", "sdxl", "--plan", "table", "--device", args.device, "--force"]
            command = [sys.executable, "-m", "comfy_vq", "quantize", str(source), str(out)]
            print(_row(label, out, _watched(command + options), factor), flush=True)


_HEAD = (
    "effort",
    "minutes",
    "processor minutes",
    "peak GB",
    "file GB",
    "bits/weight",
    "left at 25/50/75 %: said / true",
)


@dataclass(frozen=True)
class Watched:
    """What was seen of a process: seconds by the clock and of processors, bytes, its progress bar."""

    seconds: float
    processor: float
    peak: int
    bar: bytes


def write_share(source: Path, target: Path, share: float) -> float:
    """Write every so many-th coded layer of a checkpoint; returns how often the whole holds its weights.

    The layers are taken in the order of their sizes, so that each kind has its share, from the largest on,
    which needs most memory.
    """
    dense = checkpoint.open_dense(source)
    numel = {key: math.prod(dense.shape(key)) for key in dense.keys() if dense.codable(key)}  # noqa: SIM118 - not a mapping
    every = max(1, round(1 / share))
    chosen = sorted(numel, key=lambda key: (-numel[key], key))[::every]
    stored = {
        PREFIX + key: Stored(dense.dtype(key), dense.shape(key), lambda key=key: dense.read(key))
        for key in chosen
    }
    write_dense(target, stored)
    return sum(numel.values()) / sum(numel[key] for key in chosen)


def _row(label: str, out: Path, found: Watched, factor: float) -> str:
    """Of the table; ``factor``: how often the whole model holds the weights that were coded."""
    written = out.stat().st_size
    cells = [
        label,
        f"{factor * found.seconds / 60:.1f}",
        f"{factor * found.processor / 60:.1f}",
        f"{(found.peak + (factor - 1) * written) / 1e9:.2f}",
        f"{factor * written / 1e9:.4f}",
        f"{checkpoint.inspect(out).bits_per_weight:.4f}",
        ", ".join(_honesty(found.bar)) if factor == 1 else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _watched(command: list[str]) -> Watched:
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    bar = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{bar[-2000:].decode(errors='replace')}")
    unit = 1 if sys.platform == "darwin" else 1024
    processor = usage.ru_utime + usage.ru_stime
    return Watched(time.monotonic() - started, processor, usage.ru_maxrss * unit, bar)


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
