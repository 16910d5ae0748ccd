"""Quality per bit: our files and everyone else's formats, of the shipped model, in one run.

    python make.py python -m pip install --no-deps -r benchmarks/requirements.txt
    python make.py python -m benchmarks.quality --out quality_out

    [--formats "Q4*" "VQ3*"] [--count 24] [--effort balanced] [--host auto] [--noise-only]

Files are made once and kept in ``--out``, so that a run goes on where it was interrupted. Then all of
them are measured as the demo measures: ``report.md`` there, sorted by size, plots, and ``gaps.md``: how
many dB ours are ahead of theirs. ``--noise-only`` leaves out what takes three quarters of the time:
sampling, and so all figures but the noise SQNR.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from comfy_vq import checkpoint
from comfy_vq.demo import run, task
from comfy_vq.demo.model_files import model_files
from comfy_vq.errors import VQError
from comfy_vq.evaluation.bench import Bench
from comfy_vq.evaluation.figures import Figures, noise_figures
from comfy_vq.evaluation.report import Report, to_json, to_markdown, to_table
from comfy_vq.evaluation.run import Named, evaluate

from .formats import ggml
from .formats.catalogue import EFFORT, formats
from .formats.format import Format, size_in
from .gaps import Observed, gap_table

_DPI = 110
_RIVALS = ("NF4", "Q4_K_S", "Q4_K flat", "Q4_0", "Q3_K_S", "Q3_K flat", "IQ3_S flat", "Q2_K flat")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("quality_out"))
    parser.add_argument("--formats", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--count", type=int, default=24, help="prompts")
    parser.add_argument("--effort", default=EFFORT, help="of ours")
    parser.add_argument("--host", default="auto", choices=("auto", "comfyui", "diffusers"))
    parser.add_argument("--noise-only", action="store_true", help="do not sample from candidates")
    args = parser.parse_args()
    chosen = _chosen(formats(args.effort), args.formats)
    files, shown = model_files(), task.subjects(args.count)
    candidates = _made(chosen, files.unet, args.out / "files")
    bench = Observed(run.choose_bench(args.host, files, shown))
    reference = Named("dense fp16", files.unet, bench.size(files.unet))
    started = time.monotonic()
    if args.noise_only:
        report = _noise_report(bench, reference, candidates)
        (args.out / "report.md").write_text(to_markdown(report), encoding="utf-8")
        (args.out / "report.json").write_text(to_json(report), encoding="utf-8")
    else:
        report = evaluate(
            bench,
            reference,
            candidates,
            args.out,
            judge=lambda pictures: task.judge(pictures, shown),
            layers=False,
            floor=True,
            note=_made_by(),
        )
    seconds = time.monotonic() - started
    _draw(report.candidates, args.out)
    print(f"\n{to_table(report)}\n")
    noises = {one.name: bench.noises[one.model] for one in candidates if one.model in bench.noises}
    ours = [name for name in noises if name.startswith("VQ")]
    rivals = [name for name in _RIVALS if name in noises]
    if ours and rivals:
        gaps = gap_table(noises, ours, rivals)
        (args.out / "gaps.md").write_text(f"{gaps}\n", encoding="utf-8")
        print(f"{gaps}\n")
    print(f"{len(candidates)} formats measured in {seconds / 60:.0f} minutes")


def _noise_report(bench: Bench, reference: Named, candidates: Sequence[Named]) -> Report:
    """What ``evaluate`` finds of teacher-forced predictions alone."""
    started = time.monotonic()
    recording = bench.record(bench.load(reference.model))
    seconds = time.monotonic() - started
    measured = []
    for one in candidates:
        noise = noise_figures(recording, bench.predict(bench.load(one.model), recording))
        measured.append(Figures(one.name, one.size, 0.0, noise))
        print(f"{one.name}: noise SQNR {noise.sqnr_db.value:.1f} dB", flush=True)
        gc.collect()  # a host's models refer to themselves
    return Report(
        host=bench.name,
        torch=str(torch.__version__),
        prompts=tuple(bench.prompts),
        seeds=tuple(bench.seeds),
        timesteps=recording.timesteps,
        reference=Figures(reference.name, reference.size, seconds),
        candidates=tuple(measured),
        failures={},
        note=_made_by(),
    )


def _made_by() -> str | None:
    try:
        return f"GGUF's types by ggml {ggml.version()}."
    except VQError:  # then they were left out, and that was said
        return None


def _draw(models: Sequence[Figures], out: Path) -> None:
    """The report's own plot of rate and quality once more, with ours as lines."""
    try:
        from comfy_vq.evaluation.plots import rate_quality
    except ImportError:  # the report has said so
        return
    names = [model.name for model in models if model.name.startswith("VQ")]
    lines = {kind: [n for n in names if n.partition(" ")[2] == kind] for kind in _lines(names)}
    rate_quality(models, lines).savefig(out / "rate_quality.png", dpi=_DPI)


def _lines(names: Sequence[str]) -> list[str]:
    """What ours are called but for their bits: codecs, and plans where they are not the usual."""
    return list(dict.fromkeys(name.partition(" ")[2] for name in names))


def _chosen(known: Sequence[Format], patterns: Sequence[str]) -> list[Format]:
    chosen = [one for one in known if any(fnmatchcase(one.name, pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(one.name for one in known)
        raise VQError(f"--formats: found none like {' '.join(patterns)}, expected some of {names}")
    return chosen


def _made(chosen: Sequence[Format], dense: Path, folder: Path) -> list[Named]:
    """The files, the smallest last; what cannot be made here is said and left out."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, made = checkpoint.open_dense(dense), []
    for one in chosen:
        started = _processor_seconds()
        try:
            path = one.file(weights, folder)
        except (ImportError, VQError) as error:
            print(f"NOT COMPARED: {one.name}: {error}", flush=True)
            continue
        made.append(Named(one.name, path, size_in(path)))
        spent = _processor_seconds() - started
        print(f"{one.name}: {made[-1].size.bits_per_weight:.3f} bits, {spent:.1f} s", flush=True)
    return sorted(made, key=lambda named: -named.size.nbytes)


def _processor_seconds() -> float:
    """Of this process and of the commands that it has run."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
