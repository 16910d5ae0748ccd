"""`quantize`: a dense model to a VQ file."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import calibration, checkpoint
from ..budget import UNKNOWN_ACTIVATIONS, activation_bytes, plan_within, sampling_bytes
from ..calibration.gate import Gate, describe
from ..codecs import codec_of
from ..errors import VQError
from ..estimate import estimate
from ..hosts.locate import find_comfyui
from ..plan import FAMILIES, Plan, to_table
from ..quantize import WeightSource, plan_for, quantize
from ..reuse import saved_plan
from . import arguments
from .progress import quantization_bar

if TYPE_CHECKING:
    from .measuring import Measuring

_AUTO, _TABLE, _MEASURED = "auto", "table", "measured"


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "quantize",
        help="compress a diffusion model",
        description="Compress a diffusion model, layer by layer, into one VQ checkpoint.",
    )
    parser.add_argument(
        "src", type=Path, metavar="SRC", help="a .safetensors diffusion model or full checkpoint"
    )
    arguments.add_destination(parser, "dst", "the VQ checkpoint to write")
    parser.add_argument(
        "--bits",
        type=arguments.bits,
        required=True,
        help="average bits per weight of the whole diffusion model, everything counted: 2.0 to 8.0; "
        'or "fit 4 GB": as many as sampling one picture within so much graphics memory allows',
    )
    arguments.add_codec(parser)
    parser.add_argument(
        "--plan",
        default=_AUTO,
        metavar="auto|table|measured|FILE",
        help="which layers get more bits: table: by what is known of the model's family; measured: by what coding "
        "each layer does to this model's output, which takes ComfyUI and some evaluations of the model for each "
        "layer; auto (default): measured at effort best where a ComfyUI is found, else table; FILE: a VQ file of the "
        "same architecture, whose plan is taken",
    )
    arguments.add_encoders(parser)
    arguments.add_encoding(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=(),
        metavar="PATTERN",
        help="layers to keep as they are: part of a name, or a pattern (*, ?) for whole names",
    )
    parser.add_argument(
        "--family", choices=FAMILIES, help="plan by this family's sensitivities; default: detect"
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="what goes into each layer, from `calibrate` or Save VQ Calibration: the same size, better",
    )
    parser.add_argument(
        "--gated",
        action="store_true",
        help="with --calibration: ask the model layer by layer whether it helps its output, and code without where "
        "it does not; takes ComfyUI and twice the time",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    arguments.check_destination(args.dst, args.force)
    if args.gated and args.calibration is None:
        raise VQError("--gated: found no --calibration, whose effect it is to check; name one")
    weights = checkpoint.open_dense(args.src)
    heard = None if args.calibration is None else calibration.load(args.calibration)
    how = {"exclude": args.exclude, "family": args.family}
    how |= {"codec": codec_of(args.codec, args.effort, heard is not None), "effort": args.effort}
    plan, running = _plan(args, weights, how, heard)
    gate = None if heard is None else _gate(args, plan.family, heard, running)
    del running  # a whole model, which only a gate has further questions to
    print(to_table(plan), flush=True)
    expected = estimate(plan, args.effort, args.device, _sampling_bytes(plan))
    print(f"{expected}{_unknown(plan)}", flush=True)
    arguments.check_space(args.dst, expected.file_bytes)
    encode_to(args.dst, weights, plan, args.effort, args.device, args.seed, gate)


def _plan(
    args: argparse.Namespace,
    weights: WeightSource,
    how: dict[str, Any],
    heard: calibration.Calibration | None,
) -> tuple[Plan, Measuring | None]:
    """The plan, and the model running in a ComfyUI where that was asked for it."""
    plan_at = partial(plan_for, weights, **how)
    if args.plan not in (_AUTO, _TABLE, _MEASURED):
        like = {key: value for key, value in how.items() if key != "codec"}
        plan_at = partial(saved_plan(args.plan).plan_for, weights, **like)
    plan = plan_within(args.bits, plan_at, _sampling_bytes)
    best = args.plan == _AUTO and args.effort == "best" and find_comfyui() is not None
    if args.plan != _MEASURED and not best:
        return plan, None
    from .measuring import Measuring

    running = Measuring(args, plan.family, "--plan measured")
    return running.plan(weights, plan, how, heard), running


def _gate(
    args: argparse.Namespace,
    family: str,
    heard: calibration.Calibration,
    running: Measuring | None,
) -> Gate:
    if not args.gated:
        return Gate(heard)
    from .measuring import Measuring

    return Gate(heard, (running or Measuring(args, family, "--gated")).probe)


def _sampling_bytes(plan: Plan) -> int:
    return sampling_bytes(plan, activation_bytes(plan.family) or UNKNOWN_ACTIVATIONS)


def _unknown(plan: Plan) -> str:
    """What the estimate of memory rests on, where that is a guess."""
    if activation_bytes(plan.family) is not None:
        return ""
    return (
        f" (activations taken as {UNKNOWN_ACTIVATIONS / 1e9:g} GB: those of family {plan.family} "
        "are not known)"
    )


def encode_to(
    dst: Path,
    weights: WeightSource,
    plan: Plan,
    effort: str,
    device: torch.device | str,
    seed: int = 0,
    gate: Gate | None = None,
) -> None:
    """Encode by a plan under a progress bar, and save; an existing file is replaced.

    Raises:
        VQError: see `quantize.quantize` and `checkpoint.save`.
    """
    with quantization_bar(dst.name) as progress:
        model = quantize(
            weights,
            plan.target,
            effort=effort,
            device=device,
            seed=seed,
            progress=progress,
            plan=plan,
            gate=gate,
        )
    checkpoint.save(dst, model)
    if gate is not None:
        print(describe(gate.summary()))
    print(f"{dst}: {dst.stat().st_size / 1e6:.1f} MB, {model.bits_per_weight:.3f} bits per weight")
