"""`quantize`: a dense model to a VQ file."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import checkpoint
from ..plan import FAMILIES, Plan
from ..quantize import WeightSource, plan_for, quantize
from . import arguments
from .progress import quantization_bar


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
        help="average bits per weight of the whole diffusion model, everything counted: 2.0 to 8.0",
    )
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
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    arguments.check_destination(args.dst, args.force)
    weights = checkpoint.open_dense(args.src)
    plan = plan_for(weights, args.bits, exclude=args.exclude, family=args.family)
    print(plan.table(), flush=True)
    encode_to(args.dst, weights, plan, args.effort, args.device, args.seed)


def encode_to(
    dst: Path,
    weights: WeightSource,
    plan: Plan,
    effort: str,
    device: torch.device | str,
    seed: int = 0,
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
        )
    checkpoint.save(dst, model)
    print(f"{dst}: {dst.stat().st_size / 1e6:.1f} MB, {model.bits_per_weight:.3f} bits per weight")
