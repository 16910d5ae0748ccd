"""`calibrate`: what goes into each layer of a model, to a file that `quantize` takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import checkpoint
from ..errors import VQError
from ..evaluation.bench import Bench
from . import arguments
from .evaluate import add_sampling, choose_bench

_SEED = 1000


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="learn what goes into each layer while a model samples, to quantize it better",
        description=(
            "Sample a dense model and sum up second moments of what goes into each of its layers. "
            "`quantize --calibration` spends bits where they matter for such inputs."
        ),
    )
    parser.add_argument(
        "reference", type=Path, metavar="MODEL", help="a dense model or a full checkpoint"
    )
    arguments.add_destination(parser, "out", "the calibration to write")
    add_sampling(parser)
    parser.add_argument(
        "--continue",
        dest="start",
        type=Path,
        metavar="FILE",
        help="a calibration of this model to add to; may be OUT itself, with --force",
    )
    # Other noise than `evaluate` begins with, which shall measure what was not calibrated on.
    parser.set_defaults(run=run, candidates=(), seed=_SEED)


def run(args: argparse.Namespace) -> None:
    from .. import calibration

    if not args.reference.is_file():
        raise VQError(f"{args.reference}: no such file; check the path")
    if checkpoint.is_vq(args.reference):
        raise VQError(
            f"{args.reference}: found a VQ checkpoint, expected a dense model; name the one that it "
            "was made of"
        )
    arguments.check_destination(args.out, args.force)
    start = None if args.start is None else calibration.load(args.start)
    with tqdm(desc="model evaluations", unit="") as bar:
        bench, _, note = choose_bench(args, bar, held_out=False)
        model = bench.load(args.reference)
        collector = calibration.Collector(*_layers(args.reference, bench, model), start)
        with collector.listening():
            bench.sample(model)
    found = collector.result(len(bench.prompts))
    calibration.save(args.out, found)
    print(f"{args.out}: {found.describe()}")
    if note is not None:
        print(note)


def _layers(path: Path, bench: Bench, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Layers by the names that weights have in a file, and the shapes of their weights."""
    network = bench.network(model)
    if network is model:  # a network of diffusers; the host's models hold theirs
        from ..hosts.diffusers import layers_of

        source = checkpoint.open_dense(path)
        layers = layers_of(model, {key: source.shape(key) for key in source.keys()})  # noqa: SIM118
    else:
        from ..hosts.comfy.source import ModelSource

        source = ModelSource(model)
        layers = source.layers()
    return layers, {name: source.shape(f"{name}.weight") for name in layers}
