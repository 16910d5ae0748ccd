"""`calibrate`: what goes into each layer of a model, to a file that `quantize` takes."""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import calibration, checkpoint
from ..calibration import Calibration
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
            "`quantize --calibration` moves errors to where such inputs do not show them. Interrupted, the same "
            "command goes on where it was."
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
    arguments.add_save_every(parser)
    # Other noise than `evaluate` begins with, which shall measure what was not calibrated on.
    parser.set_defaults(run=run, candidates=(), seed=_SEED)


def run(args: argparse.Namespace) -> None:
    if not args.reference.is_file():
        raise VQError(f"{args.reference}: no such file; check the path")
    if checkpoint.is_vq(args.reference):
        raise VQError(
            f"{args.reference}: found a VQ checkpoint, expected a dense model; name the one that it "
            "was made of"
        )
    arguments.check_destination(args.out, args.force)
    state = State(args.out, _about(args))
    with tqdm(desc="model evaluations", unit="") as bar:
        start = state.read()
        if start is not None:
            bar.write(f"going on from {state.path}")
        elif args.start is not None:
            start = calibration.load(args.start)
        bench, _, note = choose_bench(args, bar, held_out=False)
        model = bench.load(args.reference)
        collector = calibration.Collector(*_layers(args.reference, bench, model), start)
        pictures = len(bench.prompts) - state.done
        saved = time.monotonic()
        for sampled in range(pictures):
            with collector.listening():
                bench.alone(state.done + sampled).sample(model)
            if time.monotonic() - saved >= args.save_every:
                state.write(collector.result(sampled + 1), state.done + sampled + 1)
                saved = time.monotonic()
    found = collector.result(pictures)
    calibration.save(args.out, found)
    state.path.unlink(missing_ok=True)
    print(f"{args.out}: {found.describe()}")
    if note is not None:
        print(note)


_ABOUT, _DONE = "vq.calibration.asked", "vq.calibration.done"


class State:
    """How far an interrupted command has come: a calibration beside the file that it was to write.

    Args:
        out: that file.
        about: what was asked for; the state of something else is refused.

    Attributes:
        path: of the state.
        done: pictures of this command that ``read`` found in it.
    """

    def __init__(self, out: Path, about: str) -> None:
        self.path = out.with_name(f"{out.name}.state")
        self.done = 0
        self._about = hashlib.sha256(about.encode()).hexdigest()

    def read(self) -> Calibration | None:
        """None where there is no state. Raises VQError: it is of something else, or damaged."""
        if not self.path.exists():
            return None
        found, header = calibration.load(self.path), calibration.noted(self.path)
        done = header.get(_DONE, "")
        if header.get(_ABOUT) != self._about or not done.isdecimal():
            raise VQError(
                f"{self.path}: found the state of another calibration, expected one of this model, these prompts "
                "and settings; give the same command again to go on with it, or delete the file"
            )
        self.done = int(done)
        return found

    def write(self, heard: Calibration, done: int) -> None:
        """Atomically."""
        calibration.save(self.path, heard, extra={_ABOUT: self._about, _DONE: str(done)})


def _about(args: argparse.Namespace) -> str:
    files = {"reference": args.reference, "start": args.start}
    return arguments.asked(args, files)


def _layers(path: Path, bench: Bench, model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Layers by the names that weights have in a file, and the shapes of their weights."""
    network = bench.network(model)
    if network is model:  # a network of diffusers; the host's models hold theirs
        from ..hosts.diffusers import layers_of

        source = checkpoint.open_dense(path)
        layers = layers_of(model, {key: source.shape(key) for key in source.keys()})  # noqa: SIM118
    else:
        from ..hosts.comfy.model.source import ModelSource

        source = ModelSource(model)
        layers = source.layers()
    return layers, {name: source.shape(f"{name}.weight") for name in layers}
