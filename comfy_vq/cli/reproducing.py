"""What `reproduce` does once a ComfyUI is running: theirs, ours, and both measured."""

from __future__ import annotations

import argparse
import gc
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..calibration import Calibration
from ..calibration.gate import Gate
from ..codecs import AUTO, codec_of
from ..demo import scenes, task
from ..demo.model_files import model_files
from ..demo.with_comfyui import asked
from ..errors import VQError
from ..evaluation.bench import Size
from ..evaluation.run import Named, check_packages, evaluate
from ..hosts.comfy.evaluation.bench import ComfyBench, Prompt, Settings
from ..hosts.comfy.evaluation.candidates import load_candidate
from ..hosts.comfy.evaluation.files import Sampling, asked_of
from ..hosts.comfy.evaluation.prompting import load_vae
from ..hosts.comfy.matching import Way, matched
from ..hosts.comfy.reproducing import ComfyHost, write_result
from ..protocol.ledger import Ledger
from ..protocol.numbers import Numbers
from ..protocol.published import SDXL
from ..protocol.report import comparison
from ..protocol.run import needs, run
from ..protocol.scores import Scorer
from ..quantize import plan_for
from .prompts import texts_of
from .quantize import encode_to

_TABLE = "reproduce.md"


def reproduce(args: argparse.Namespace, weights: Path, numbers: Numbers) -> None:
    """See the command; ``args`` are its own."""
    check_packages()
    ledger = Ledger(args.out, _about(args, weights, numbers))
    with tqdm(desc="model evaluations", unit="") as bar:
        setting = _setting(args, weights, numbers)
        scorers = _scorers(args, [prompt.text for prompt in setting.held_out])
        changes = numbers.changes() or ["nothing"]
        bar.write("\n  ".join(["VQDM by the paper's numbers, except for", *changes]))
        host = ComfyHost(setting.model, setting.seen, setting.how, bar.update)
        bar.write(needs(host.shapes))
        made: list[Named] = []
        seconds: dict[str, float] = {}
        way = _way(args, weights, setting, bar)
        for books in sorted(set(args.bits), reverse=True):
            label, path = f"VQDM-{books}", args.out / f"VQDM-{books}.safetensors"
            theirs = run(host, numbers.schedule(books, args.seed), ledger, label, bar.write)
            write_result(path, host.source, theirs)
            made.append(Named(label, path, theirs.size(host.numel)))
            seconds[label], bits = theirs.seconds, made[-1].size.bits_per_weight
            bar.write(f"{label}: {bits:.3f} bits per weight, {theirs.seconds:.0f} s")
            label = f"ours-{books}"
            ours = matched(way, ledger, label, math.floor(100 * bits) / 100, theirs.seconds)
            header = checkpoint.inspect(ours.path)
            made.append(Named(label, ours.path, Size(header.nbytes, header.numel)))
            seconds[label] = ours.seconds
            tuning = "not fine-tuned" if ours.tuning is None else f"fine-tuning {ours.tuning:.0f} s"
            bar.write(
                f"{label}: calibrating {ours.calibrating:.0f} s, encoding {ours.encoding:.0f} s, {tuning}; in "
                f"all {ours.seconds:.0f} s of their {theirs.seconds:.0f} s"
            )
        table = _measured(args, weights, setting, scorers, made, seconds, bar)
    print(f"\n{table}\n\nall files are in {args.out}")


@dataclass(frozen=True, eq=False)
class _Setting:
    """A model, and what it is asked.

    Attributes:
        seen: prompts to calibrate and learn on.
        held_out: prompts to measure on.
        how: of sampling.
        scenes: of the demo's held-out prompts.
        note: what a reader of the figures should know.
    """

    model: Any
    seen: list[Prompt]
    held_out: list[Prompt]
    how: Settings
    vae: Any
    scenes: Sequence[scenes.Scene] = ()
    note: str | None = None


@torch.inference_mode()
def _setting(args: argparse.Namespace, weights: Path, numbers: Numbers) -> _Setting:
    if args.model == "demo":
        return _of_demo(args, weights, numbers)
    texts = list(texts_of(args.prompts))
    if len(texts) <= args.evaluate:
        raise VQError(
            f"--prompts: found {len(texts)}, expected more than the {args.evaluate} that are only measured on; "
            "give a longer list, or a smaller --evaluate"
        )
    sampling = Sampling(
        texts=texts,
        steps=numbers.steps,
        cfg=numbers.cfg,
        sampler=numbers.sampler,
        size=numbers.size,
        clip=args.clip,
        clip_type=args.clip_type,
        vae=args.vae,
        seed=args.seed,
    )
    model, prompts, how, vae, note = asked_of(weights, sampling)
    how = replace(how, scheduler=numbers.scheduler)
    held_out = [replace(p, seed=i) for i, p in enumerate(prompts[-args.evaluate :])]
    return _Setting(model, prompts[: -args.evaluate], held_out, how, vae, note=note)


def _of_demo(args: argparse.Namespace, weights: Path, numbers: Numbers) -> _Setting:
    if args.prompts is not None:
        raise VQError("--prompts: the shipped model knows scenes of its own only; use --count")
    most = max(numbers.count, numbers.tuning_count * numbers.epochs, args.our_count)
    how = numbers.steps, numbers.cfg, numbers.sampler
    learned = [scene.caption for scene in task.subjects(most, held_out=False)]
    seen, settings = asked(learned, args.seed, *how)
    shown = task.subjects(args.evaluate)
    held_out, _ = asked([scene.caption for scene in shown], task.SEED, *how)
    settings = replace(settings, scheduler=numbers.scheduler)
    vae = load_vae(args.vae or model_files().autoencoder)
    return _Setting(load_candidate(weights), seen, held_out, settings, vae, shown)


def _way(args: argparse.Namespace, weights: Path, setting: _Setting, bar: tqdm) -> Way:
    """Ours, as `calibrate`, `quantize --calibration` and `finetune` do it."""

    def encode(path: Path, heard: Calibration, bits: float) -> None:
        source = checkpoint.open_dense(weights)
        codec = codec_of(AUTO, args.effort, True)
        plan = plan_for(source, bits, codec=codec, effort=args.effort)
        encode_to(path, source, plan, args.effort, args.device, args.seed, Gate(heard))

    asking = setting.model, setting.seen, setting.how, args.our_count
    return Way(*asking, encode, bar.update, bar.write)


def _measured(
    args: argparse.Namespace,
    weights: Path,
    setting: _Setting,
    scorers: Mapping[str, Scorer],
    made: Sequence[Named],
    seconds: Mapping[str, float],
    bar: tqdm,
) -> str:
    """The table, which is written to a file as well."""
    gc.collect()  # the host's models refer to themselves
    bench = ComfyBench(setting.held_out, setting.how, setting.vae, bar.update)
    scores: dict[str, list[float]] = {name: [] for name in scorers}

    def judge(pictures: Tensor) -> dict[str, float]:
        """Called once for each model, in the order of the report."""
        for name, scorer in scorers.items():
            scores[name].append(scorer(pictures))
        return task.judge(pictures, setting.scenes) if setting.scenes else {}

    report = evaluate(
        bench,
        Named("dense", weights, bench.size(weights)),
        made,
        args.out / "report",
        judge=judge,
        layers=False,
        note=setting.note,
        say=bar.write,
    )
    known = {name: found for name, found in scores.items() if found}  # pictures take an autoencoder
    parts = comparison(report, seconds, known, SDXL), setting.note
    table = "\n\n".join(part for part in parts if part)
    (args.out / _TABLE).write_text(f"{table}\n", encoding="utf-8")
    return table


def _scorers(args: argparse.Namespace, prompts: Sequence[str]) -> dict[str, Scorer]:
    """By heading; the CLIP's tokenizer and image processor serve both, as in the paper's script."""
    found = {}
    if args.clip_score is not None:
        found["CLIP"] = Scorer(args.clip_score, prompts)
    if args.pickscore is not None:
        found["Pickscore"] = Scorer(args.pickscore, prompts, args.clip_score)
    return found


def _about(args: argparse.Namespace, weights: Path, numbers: Numbers) -> dict[str, str]:
    """All that every part of a run depends on."""
    stat = weights.stat()
    texts = "\n".join(texts_of(args.prompts))
    return {
        "model": args.model,
        "weights": f"{weights.absolute()}, {stat.st_size} bytes of {stat.st_mtime_ns}",
        "prompts": hashlib.sha256(texts.encode()).hexdigest(),
        **{name: str(value) for name, value in asdict(numbers).items()},
        **{n: str(getattr(args, n)) for n in ("clip", "evaluate", "our_count", "effort", "seed")},
    }
