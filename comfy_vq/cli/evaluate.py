"""`evaluate`: how far models are from their reference, at how many bits per weight."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from .. import checkpoint
from ..errors import VQError
from ..evaluation.bench import Bench, Judge
from ..hosts.comfy_boot import boot
from ..hosts.locate import find_comfyui
from ..hosts.modes import split_compute
from ..plan import detect_family
from . import arguments
from .prompts import texts_of

SHIPPED = "demo"
"""Family of the shipped model."""
_SCENES = 24
CFG = 5.0
"""Guidance of all other models, unless asked otherwise."""
_AS_THE_DEMO = "Sampled as the demo does, whatever was asked for: diffusers knows no other way."


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure how far compressed models are from their reference",
        description=(
            "Sample a reference, ask every candidate what the reference was asked, and compare: "
            "predicted noise, latents, pictures, layers, and the bits that each weight takes. "
            "Writes report.md, report.json and plots."
        ),
    )
    parser.add_argument(
        "reference",
        type=Path,
        metavar="REFERENCE",
        help="a model or a full checkpoint, of any kind",
    )
    parser.add_argument(
        "candidates",
        type=Path,
        nargs="+",
        metavar="CANDIDATE",
        help="VQ, GGUF, or any file that ComfyUI loads: dense, fp8, its other formats; "
        "a VQ file as FILE@int8 to compute in int8",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("quality_report"), help="folder for the report"
    )
    add_sampling(parser)
    parser.add_argument("--vae", type=Path, metavar="FILE", help="autoencoder")
    parser.add_argument(
        "--no-layers", action="store_true", help="do not compare layer by layer: less memory"
    )
    parser.add_argument(
        "--floor", action="store_true", help="measure the reference rounded to bfloat16 too"
    )
    parser.set_defaults(run=run)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """What to sample a model with, and through."""
    arguments.add_encoders(parser)
    parser.add_argument("--count", type=arguments.count, metavar="N", help="only N of the prompts")
    parser.add_argument("--steps", type=arguments.count, default=20)
    parser.add_argument(
        "--cfg", type=float, help=f"guidance, 1 for none; default: {CFG:g}, of the shipped model 3"
    )
    parser.add_argument(
        "--size", type=arguments.count, metavar="PIXELS", help="of pictures; default: by family"
    )
    parser.add_argument(
        "--sampler", help="by ComfyUI's name; default: euler, of the shipped model ddim"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt")
    parser.add_argument(
        "--host",
        choices=("auto", "comfyui", "diffusers"),
        default="auto",
        help="what to sample through; diffusers can do it for the shipped model only",
    )


def run(args: argparse.Namespace) -> None:
    # Only here: they need packages that most commands do not.
    from ..evaluation.report import to_table
    from ..evaluation.run import Named, evaluate

    for path in (args.reference, *(split_compute(path)[0] for path in args.candidates)):
        if not path.is_file():
            raise VQError(f"{path}: no such file; check the path")
    named = _named([args.reference, *args.candidates])
    with tqdm(desc="model evaluations", unit="") as bar:
        bench, judge, note = choose_bench(args, bar)
        reference, *candidates = (Named(n, path, bench.size(path)) for n, path in named.items())
        report = evaluate(
            bench,
            reference,
            candidates,
            args.out,
            judge=judge,
            layers=not args.no_layers,
            floor=args.floor,
            note=note,
            say=bar.write,
        )
    print(f"\n{to_table(report)}\n")
    if note is not None:
        print(note)
    print(f"measured in {bench.name}; all files are in {args.out}")


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by what the report calls them: their names where these tell them apart."""
    stems = [_stem(path) for path in paths]
    named = {
        stem if stems.count(stem) == 1 else str(path): path
        for stem, path in zip(stems, paths, strict=True)
    }
    if len(named) < len(paths):
        raise VQError("the same file is named twice; compare different files")
    return named


def _stem(path: Path) -> str:
    file, compute = split_compute(path)
    return file.stem if file == path else f"{file.stem}@{compute}"


_Chosen = tuple[Bench, Judge | None, str | None]
"""Where to measure, who judges the pictures, and what a reader of the figures should know."""


def choose_bench(args: argparse.Namespace, bar: tqdm, held_out: bool = True) -> _Chosen:
    """Where to sample ``args.reference``, by the arguments of ``add_sampling``.

    Args:
        bar: counts evaluations of the model.
        held_out: whether the shipped model is shown scenes that it was not trained on.

    Raises:
        VQError: no host that could do it was found, or the arguments do not fit the model.
    """
    comfyui = None if args.host == "diffusers" else find_comfyui()
    if comfyui is None and args.host == "comfyui":
        raise VQError(
            "no ComfyUI was found; name its folder in the environment variable COMFYUI_PATH"
        )
    if comfyui is not None:
        boot(comfyui)
    elif any(split_compute(path)[1] != "exact" for path in args.candidates):
        raise VQError(
            "@int8, @auto: found no ComfyUI, in which alone this works; name its folder in the "
            "environment variable COMFYUI_PATH, or name the file alone"
        )
    if family_of(args.reference) == SHIPPED:
        return _shipped_model(args, comfyui, bar, held_out)
    if comfyui is None:
        raise VQError(
            f"{args.reference}: measuring this model needs ComfyUI; name its folder in the "
            "environment variable COMFYUI_PATH (diffusers measures the shipped model only)"
        )
    from ..hosts.comfy.evaluation.files import Sampling, bench_for

    sampling = Sampling(
        texts=texts_of(args.prompts)[: args.count],
        steps=args.steps,
        cfg=CFG if args.cfg is None else args.cfg,
        sampler=args.sampler or "euler",
        size=args.size,
        clip=args.clip,
        clip_type=args.clip_type,
        vae=getattr(args, "vae", None),
        seed=args.seed,
    )
    bench, note = bench_for(args.reference, sampling, bar.update)
    return bench, None, note


def family_of(path: Path) -> str | None:
    """Whose sensitivities would plan a model; None where that takes ComfyUI to find out."""
    if checkpoint.is_vq(path):
        header = checkpoint.inspect(path)
        shapes = {key: entry.shape for key, entry in header.dense.items()}
        return detect_family(
            shapes | {f"{name}.weight": layer.shape for name, layer in header.layers.items()}
        )
    try:
        weights = checkpoint.open_dense(path)
    except VQError:  # not plain: ComfyUI may know it
        return None
    return detect_family({key: weights.shape(key) for key in weights.keys()})  # noqa: SIM118


def _shipped_model(
    args: argparse.Namespace, comfyui: Path | None, bar: tqdm, held_out: bool
) -> _Chosen:
    """The demo's prompts, conditioning, autoencoder, sampler and judge."""
    from ..demo import run, task
    from ..demo.model_files import ModelFiles, model_files

    if args.prompts is not None:
        raise VQError("--prompts: the shipped model knows scenes of its own only; use --count")
    shown = task.subjects(args.count or _SCENES, held_out)
    files = ModelFiles(args.reference, model_files().autoencoder)

    def judge(pictures: Tensor) -> dict[str, float]:
        return task.judge(pictures, shown)

    if comfyui is None:
        return run.choose_bench("diffusers", files, shown), judge, _AS_THE_DEMO
    from ..demo.with_comfyui import comfyui_bench

    bench = comfyui_bench(
        comfyui,
        files.autoencoder,
        [scene.caption for scene in shown],
        seed=args.seed,
        steps=args.steps,
        cfg=task.GUIDANCE if args.cfg is None else args.cfg,
        sampler=args.sampler or "ddim",
        on_call=bar.update,
    )
    return bench, judge, None
