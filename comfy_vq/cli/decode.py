"""`decode`: the dense model that a VQ file stands for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from .. import checkpoint
from ..checkpoint.encoders import by_encoder, split_encoders
from ..errors import VQError
from ..model import VQModel
from . import arguments

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "decode",
        help="write the dense model that a VQ file stands for",
        description=(
            "Write a dense .safetensors under the source's own names, which loads wherever the "
            "source did. Of a file that holds more than a diffusion model, one part at a time."
        ),
    )
    parser.add_argument("vq", type=Path, metavar="VQ", help="a VQ checkpoint")
    arguments.add_destination(parser, "dst", "the dense file to write")
    parser.add_argument(
        "--dtype", choices=_DTYPES, help="of the decoded weights; by default that of the source"
    )
    parser.add_argument(
        "--part",
        metavar="PART",
        help="model, vae, or a text encoder such as t5xxl; by default the diffusion model, or what else "
        "is there alone",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    arguments.check_destination(args.dst, args.force)
    parts = _parts(args.vq)
    name = args.part or (checkpoint.MODEL if checkpoint.MODEL in parts else None)
    if name is None and len(parts) == 1:
        (name,) = parts
    if name not in parts:
        raise VQError(
            f"{args.vq}: --part: found {args.part or 'nothing'}, expected one of what the file holds: "
            f"{', '.join(parts)}"
        )
    checkpoint.write_decoded(args.dst, parts[name](), _DTYPES.get(args.dtype))
    print(f"{args.dst}: {name}, {args.dst.stat().st_size / 1e6:.1f} MB")
    others = [part for part in parts if part != name]
    if others:
        print(f"left out, each to be had with --part: {', '.join(others)}")


def _parts(path: Path) -> dict[str, Callable[[], VQModel]]:
    """What a file holds, to be read when it is wanted."""
    header = checkpoint.inspect(path)
    parts: dict[str, Callable[[], VQModel]] = {}
    if header.numel or not header.components:
        parts[checkpoint.MODEL] = lambda: checkpoint.load(path)
    for name, part in header.components.items():
        encoders, _ = by_encoder([*part.dense, *(f"{layer}.weight" for layer in part.layers)])
        if name != checkpoint.CLIP or not encoders:
            parts[name] = lambda name=name: checkpoint.load_component(path, name).model
            continue
        for encoder in encoders:
            parts[encoder] = lambda encoder=encoder: _encoder(path, encoder)
    return parts


def _encoder(path: Path, name: str) -> VQModel:
    return split_encoders(checkpoint.load_component(path, checkpoint.CLIP).model)[name]
