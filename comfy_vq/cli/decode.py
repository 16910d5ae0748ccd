"""`decode`: the dense model that a VQ file stands for."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from .. import checkpoint
from . import arguments

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "decode",
        help="write the dense model that a VQ file stands for",
        description=(
            "Write a dense .safetensors under the source's own names, which loads wherever the "
            "source did."
        ),
    )
    parser.add_argument("vq", type=Path, metavar="VQ", help="a VQ checkpoint")
    arguments.add_destination(parser, "dst", "the dense file to write")
    parser.add_argument(
        "--dtype", choices=_DTYPES, help="of the decoded weights; by default that of the source"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    arguments.check_destination(args.dst, args.force)
    model = checkpoint.load(args.vq)
    checkpoint.write_decoded(args.dst, model, _DTYPES.get(args.dtype))
    print(f"{args.dst}: {args.dst.stat().st_size / 1e6:.1f} MB")
