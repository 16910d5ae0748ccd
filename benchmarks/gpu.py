"""All that needs a graphics card, in one command of less than 8 minutes on a fast one.

    python -m benchmarks.gpu --out gpu.md [--minutes 8] [--quick] [--device cuda]

Tests of ``tests/gpu``, ``benchmarks.kernels``, ``benchmarks.encoding`` and, where a ComfyUI and what it requires are found, adapters
of every kind (``benchmarks.lora``, with and without DynamicVRAM) and
``benchmarks.step`` with random weights at 1024 pixels in all modes. Each part is a process of its
own with a time limit; what fails or runs out of time is reported as that, and the others still
run. The file is written anew after every part. Ends with status 1 unless all parts ran and passed.
``--quick`` makes everything tiny, to see that it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.overhead import no_comfyui
from benchmarks.timing import where

CHECKOUT = Path(__file__).resolve().parents[1]
LEAST_SECONDS = 5.0
"""Left, without which no part is begun."""


@dataclass(frozen=True)
class Part:
    """One thing to run.

    Attributes:
        title: in the report.
        command: after the name of this Python.
        seconds: that it may take.
        skipped: why it is not run, or "".
        variables: of its environment, besides those that are there.
    """

    title: str
    command: Sequence[str]
    seconds: float
    skipped: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a part: ``status`` is ``passed``, or says what is wrong."""

    part: Part
    status: str
    seconds: float
    output: str = ""

    def __str__(self) -> str:
        status = self.status if self.status == "passed" else f"**{self.status}**"
        text = f"## {self.part.title}\n\n{status}, {self.seconds:.0f} s"
        if not self.part.skipped:
            text += f"\n\n    python {shlex.join(self.part.command)}"
        return f"{text}\n\n{self.output}".rstrip() + "\n"


def parts(device: str, quick: bool, folder: Path, files: Sequence[Path] = ()) -> Iterator[Part]:
    """Everything, what matters most first.

    Args:
        folder: for files of random weights, unless ``files``, a dense and a VQ one, are given.
    """
    yield Part("Which implementation runs", ("-m", "comfy_vq", "doctor"), 60)
    tests = ("-m", "pytest", "tests/gpu", "-q", "-rs", "--no-header", "-p", "no:cacheprovider")
    chosen = ("-k", "37 or test_any_number") if quick else ()
    yield Part("Parity", (*tests, *chosen), 150, variables={"VQ_GPU_TESTS_ON": device})
    tiny = ("--repeats", "2", "--rows-scale", "0.002", "--width-scale", "4", "--copy-mib", "4")
    measured = ("-m", "benchmarks.kernels", "--device", device, *(tiny if quick else ()))
    yield Part("Kernels", measured, 120)
    share = ("--share", "0.002", "--efforts", "fast") if quick else ()
    yield Part("Encoding", ("-m", "benchmarks.encoding", "--device", device, *share), 60)
    why_not = no_comfyui()
    if not quick:
        for options in ((), ("--dynamic",)):
            adapters = ("-m", "benchmarks.lora", "--tables", "adapters", *options)
            yield Part(f"Adapters{' '.join(('', *options))}", adapters, 60, why_not)
    if quick and not files:
        why_not = why_not or "--quick without --files"
    sources = tuple(map(str, files)) or ("--random", str(folder))
    size = ("--pixels", "64", "--steps", "2") if quick else ("--pixels", "1024")
    step = ("-m", "benchmarks.step", *sources, "--dtype", "fp16", *size)
    if not files:
        yield Part("Random weights and codes", (*step, "--modes"), 120, why_not)
    for mode, models, seconds in (
        ("eager", ("dense", "VQ", "VQ int8"), 40.0),
        ("graphs", ("dense", "VQ"), 40.0),
        ("streamed", ("dense", "VQ"), 40.0),
        ("dynamic", ("dense", "VQ"), 40.0),
        ("compiled", ("dense", "VQ"), 120.0),
    ):
        if device == "cpu" and mode != "eager":
            continue
        options = ("--modes", mode, "--models", *models, "--seconds", str(seconds))
        limit = 10 + seconds * len(models)
        yield Part(f"A step, {mode}", (*step, *options), limit, why_not)


def run(part: Part, left: float) -> Outcome:
    """Run a part in at most ``left`` seconds, and end all that it started."""
    if part.skipped:
        return Outcome(part, f"skipped: {part.skipped}", 0)
    limit = min(part.seconds, left)
    if limit < LEAST_SECONDS:
        return Outcome(part, "not run: out of time", 0)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **part.variables},
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            status = "passed" if code == 0 else f"FAILED with status {code}"
        except subprocess.TimeoutExpired:
            status = f"OUT OF TIME after {limit:.0f} s; what it had printed follows"
        finally:
            _end(process)
        output.seek(0)
        text = output.read()[-20_000:]
    return Outcome(part, status, time.monotonic() - started, text)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, which are a session of their own."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def report(head: str, outcomes: Sequence[Outcome]) -> str:
    lines = [f"* {o.part.title}: {o.status.split(';')[0]}" for o in outcomes]
    return "\n".join(["# On a graphics card\n", head, *lines, "", *map(str, outcomes)])


def main() -> int:
    card = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the report, in Markdown")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--quick", action="store_true", help="tiny: only to see that it works")
    parser.add_argument("--files", type=Path, nargs=2, default=[], help="a dense and a VQ file")
    parser.add_argument("--folder", type=Path, help="keeps the 6 GB of random files there")
    args = parser.parse_args()
    if args.device == "cuda" and not card:
        parser.error("torch sees no graphics card; --device cpu --quick tries this script without")
    end = time.monotonic() + 60 * args.minutes
    head = where(torch.device(args.device))
    if args.quick:
        head += "\n**Tiny sizes, to see that everything works: the figures mean nothing.**\n"
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for part in parts(args.device, args.quick, folder, args.files):
            outcomes.append(run(part, end - time.monotonic()))
            args.out.write_text(report(head, outcomes), encoding="utf-8")
            print(f"{part.title}: {outcomes[-1].status}", flush=True)
    print(args.out)
    return 0 if all(outcome.status == "passed" for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
