"""What data gains on the shipped model, step by step, and what of it is left elsewhere.

    python make.py python -m pip install --no-deps -r benchmarks/requirements.txt
    python make.py python -m benchmarks.calibrated --out calibrated_out [--bits 3 2.2 4] [--count 8]
                                                   [--scenes 16] [--iterations 60]

Each step is a command of ``python -m comfy_vq`` on the shipped model, run by one thread and timed:

* trellis, additive: without data, by each codec;
* diagonal: the mean squares of each input, without what inputs have to do with each other;
* moments: all second moments, with feedback; no gate;
* gated: the same where the network's own output does not speak against it;
* again: moments of the network that was quantized by the step before, whose inputs are what later
  layers really get;
* measured: widths by what coding a layer under its moments does to the output;
* tuned: fine-tuned on the calibration's scenes: scales, norms, biases and codebooks;
* codes: fine-tuned for as many iterations with codes that move;
* path: under all second moments by the other codec, ``trellis``;

and in the same run the formats of others. All are measured on captions, seeds and noise that none of them has
seen, then in another size and by another sampler. Files are kept in ``--out``, and an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from comfy_vq import calibration, checkpoint
from comfy_vq.demo import task
from comfy_vq.demo.model_files import model_files
from comfy_vq.demo.run import choose_bench
from comfy_vq.errors import VQError
from comfy_vq.evaluation.bench import Bench
from comfy_vq.evaluation.figures import noise_figures
from comfy_vq.evaluation.report import to_table
from comfy_vq.evaluation.run import Named, evaluate
from comfy_vq.hosts.locate import find_comfyui

from .commands import COMFY_VQ, last_line, run
from .formats.catalogue import formats
from .formats.format import size_in

RIVALS = ("NF4", "Q4_K_S", "Q4_K flat", "Q3_K_S", "Q3_K flat")
"""Formats of others; all of ``benchmarks.quality`` are measured there."""
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_SIDE, _SAMPLER, _STEPS, _CFG = 12, "dpmpp_2m", 14, 5.0
"""Another size, in latent pixels, and another sampler, with its steps and guidance."""


@dataclass(frozen=True)
class Step:
    """A file that one command makes.

    Attributes:
        command: its name and options; ``{name}`` stands for what another step or calibration made.
    """

    name: str
    command: tuple[str, ...]


def steps(bits: float, iterations: int) -> tuple[Step, ...]:
    """The ladder; ``cal``, ``diagonal`` and ``again`` are calibrations."""
    quantize = ("quantize", "{dense}", "{out}", "--bits", f"{bits:g}")
    additive = (*quantize, "--codec", "additive")
    tune = ("finetune", "{dense}", "{measured}", "{out}", "--keep-activations")
    tune += ("--count", "16", "--iterations", str(iterations))
    return (
        Step("trellis", (*quantize, "--codec", "trellis")),
        Step("additive", additive),
        Step("diagonal", (*additive, "--calibration", "{cal-diagonal}")),
        Step("moments", (*additive, "--calibration", "{cal}")),
        Step("gated", (*additive, "--calibration", "{cal}", "--gated")),
        Step("again", (*additive, "--calibration", "{cal-again}")),
        Step("measured", (*additive, "--calibration", "{cal}", "--plan", "measured")),
        Step("tuned", tune),
        Step("codes", (*tune, "--move-codes")),
        Step("path", (*quantize, "--codec", "trellis", "--calibration", "{cal}")),
    )


class Ladder:
    """Files of the steps at one number of bits, each made once."""

    def __init__(self, folder: Path, bits: float, scenes: int) -> None:
        self._folder, self._bits, self._scenes = folder, bits, scenes
        self._dense = model_files().unet

    def make(self, step: Step) -> Named:
        """The file of a step, with processor seconds and peak memory of its command."""
        path = self._path(step.name)
        noted = path.with_suffix(".json")
        if not noted.exists():
            words = [self._word(word, path) for word in step.command]
            noted.write_text(json.dumps(watched([*words, "--force"])), encoding="utf-8")
        return Named(step.name, path, size_in(path), json.loads(noted.read_text(encoding="utf-8")))

    def _word(self, word: str, out: Path) -> str:
        if not word.startswith("{"):
            return word
        name = word.strip("{}")
        if name in ("out", "dense"):
            return str({"out": out, "dense": self._dense}[name])
        if name.startswith("cal"):
            return str(self._heard(name))
        return str(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}-{self._bits:g}.safetensors"

    def _heard(self, name: str) -> Path:
        """A calibration, sampled where it is not there yet."""
        path = self._folder / f"{name}.safetensors"
        listen = ["--count", str(self._scenes), "--force"]
        if name == "cal" and not path.exists():
            spent = watched(["calibrate", str(self._dense), str(path), *listen])
            print(f"calibration of {self._scenes} scenes: {said(spent)}", flush=True)
        elif name == "cal-diagonal" and not path.exists():
            calibration.save(path, diagonal(calibration.load(self._heard("cal"))))
        elif name == "cal-again":
            path = self._path(name)
            if not path.exists():
                decoded = self._path("moments-decoded")
                run(["decode", str(self._path("moments")), str(decoded), "--force"], **_ONE_THREAD)
                run(["calibrate", str(decoded), str(path), *listen], **_ONE_THREAD)
        return path


def diagonal(heard: calibration.Calibration) -> calibration.Calibration:
    """With all that is off the diagonals of its moments taken for zero."""
    alone = {
        name: replace(found, sums=torch.diag_embed(found.sums.diagonal(dim1=1, dim2=2)))
        for name, found in heard.moments.items()
    }
    return replace(heard, moments=alone)


def watched(words: Sequence[str]) -> dict[str, float]:
    """Processor seconds and peak memory of a command, the latter as the system counts it."""
    process = subprocess.Popen(
        [*COMFY_VQ, *words],
        env={**os.environ, **_ONE_THREAD},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    told = process.stderr.read().decode(errors="replace")
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise VQError(f"comfy_vq {' '.join(words)}: {last_line(told)}")
    return {"make s": used.ru_utime + used.ru_stime, "make GB": used.ru_maxrss / 1e6}


def said(spent: Mapping[str, float]) -> str:
    return f"{spent['make s']:.0f} s of processor time, {spent['make GB']:.2f} GB"


def rivals(folder: Path) -> list[Named]:
    """Formats of others, where their packages are here."""
    weights, made = checkpoint.open_dense(model_files().unet), []
    for one in formats():
        if one.name not in RIVALS:
            continue
        try:
            path = one.file(weights, folder)
        except (ImportError, VQError) as error:
            print(f"NOT COMPARED: {one.name}: {error}", flush=True)
        else:
            made.append(Named(one.name, path, size_in(path)))
    return made


def elsewhere(count: int) -> dict[str, Bench]:
    """Other ways to sample the held-out scenes than the calibration has heard."""
    from comfy_vq.demo.with_comfyui import asked
    from comfy_vq.hosts.comfy.evaluation.bench import ComfyBench

    captions = [scene.caption for scene in task.subjects(count)]
    prompts, usual = asked(captions, task.SEED, task.STEPS, task.GUIDANCE, "ddim")
    larger = replace(usual, latent={"samples": torch.zeros(1, task.LATENT[0], _SIDE, _SIDE)})
    other = replace(usual, steps=_STEPS, cfg=_CFG, sampler=_SAMPLER, scheduler="karras")
    benches = {"calibrated way": usual, f"{8 * _SIDE} x {8 * _SIDE}": larger, _SAMPLER: other}
    return {name: ComfyBench(prompts, how) for name, how in benches.items()}


def print_elsewhere(benches: Mapping[str, Bench], candidates: Sequence[Named]) -> None:
    """Noise SQNR in dB of each candidate on each bench."""
    found: dict[str, list[str]] = {one.name: [] for one in candidates}
    for bench in benches.values():
        recording = bench.record(bench.load(model_files().unet))
        for one in candidates:
            noise = noise_figures(recording, bench.predict(bench.load(one.model), recording))
            margin = noise.sqnr_db.margin
            spread = "" if margin is None else f" ± {margin:.1f}"
            found[one.name].append(f"{noise.sqnr_db.value:.1f}{spread}")
    heads = ["model", "bits/weight", *benches]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for one in candidates:
        cells = [one.name, f"{one.size.bits_per_weight:.2f}", *found[one.name]]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("calibrated_out"))
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 2.2, 4.0])
    parser.add_argument("--count", type=int, default=8, help="held-out scenes to measure on")
    parser.add_argument("--scenes", type=int, default=16, help="to calibrate on")
    parser.add_argument("--iterations", type=int, default=60, help="of fine-tuning")
    parser.add_argument(
        "--steps", nargs="+", help="only these; what they are made from comes first"
    )
    args = parser.parse_args()
    comfyui = find_comfyui()
    if comfyui is None:
        raise VQError("found no ComfyUI, through which all this is sampled; set COMFYUI_PATH")
    args.out.mkdir(parents=True, exist_ok=True)
    made = {}
    for bits in args.bits:
        ladder = Ladder(args.out, bits, args.scenes)
        chosen = [s for s in steps(bits, args.iterations) if not args.steps or s.name in args.steps]
        made[bits] = [replace(one, name=f"{one.name} {bits:g}") for one in map(ladder.make, chosen)]
        for one in made[bits]:
            print(f"{one.name}: {one.size.bits_per_weight:.3f} bits, {said(one.extra)}", flush=True)
            told = checkpoint.inspect(one.model).plan.get("calibration")
            if told is not None:
                print(f"    {told}", flush=True)
    files, shown = model_files(), task.subjects(args.count)
    bench = choose_bench("comfyui", files, shown)
    reference = Named("dense", files.unet, bench.size(files.unet))
    candidates = [one for several in made.values() for one in several]
    others = rivals(args.out)
    how = {"judge": lambda pictures: task.judge(pictures, shown), "layers": False}
    report = evaluate(bench, reference, [*others, *candidates], args.out / "report", **how)
    print(f"\n{bench.name}, {args.count} scenes\n\n{to_table(report)}\n", flush=True)
    print_elsewhere(elsewhere(args.count), [*others, *candidates])


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"\n{(time.monotonic() - started) / 60:.0f} minutes in all")
