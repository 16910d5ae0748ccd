"""Argument types and checks that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch

from ..budget import Fit, parse_bits
from ..checkpoint.atomic import free_bytes
from ..codecs import AUTO, CODECS, EFFORTS
from ..errors import VQError
from .prompts import texts_of


def bits(text: str) -> float | Fit:
    """Average bits per weight, 2 to 8, or the graphics memory to stay within."""
    try:
        return parse_bits(text)
    except VQError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 1")
    return int(text)


def device(text: str) -> torch.device:
    """A torch device that works here."""
    try:
        found = torch.device(text)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"device {text!r} does not work here: {reason}") from None
    return found


def add_destination(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """An output file, with `--force` to replace one."""
    parser.add_argument(name, type=Path, metavar=name.upper(), help=help)
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def check_destination(path: Path, force: bool) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        VQError: the file is there and not to be replaced, it is a folder, or its folder is not
            there.
    """
    if path.is_dir():
        raise VQError(
            f"{path} is a folder; name a file in it, such as {path / 'model.safetensors'}"
        )
    if path.exists() and not force:
        raise VQError(f"{path} exists already; name another file, or add --force to replace it")
    if not path.absolute().parent.is_dir():
        raise VQError(f"{path.parent} is not a folder; create it first, or name another file")


def check_space(path: Path, nbytes: int) -> None:
    """Refuse before the work what the disk has no room for after it.

    Raises:
        VQError: too little is free in the folder of ``path``.
    """
    free = free_bytes(path.absolute().parent)
    if free < nbytes:
        raise VQError(
            f"{path}: found {free / 1e6:.1f} MB free, expected {nbytes / 1e6:.1f} MB; free some space, "
            "or name a file on another disk"
        )


def add_codec(parser: argparse.ArgumentParser) -> None:
    """What to code by."""
    parser.add_argument(
        "--codec",
        choices=(*CODECS, AUTO),
        default=AUTO,
        help="how weights are coded; auto (default): additive at effort fast and under a calibration, else "
        "trellis, which is better at the same size and takes longer to find",
    )


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """How hard to search, and on which device."""
    parser.add_argument(
        "--effort",
        choices=EFFORTS,
        default="balanced",
        help="how hard to search; does not change the size or the speed of the result",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where to encode; by default a CUDA card where there is one",
    )


def add_encoders(parser: argparse.ArgumentParser) -> None:
    """Prompts, and what encodes them."""
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one a line; default: a list of 16"
    )
    parser.add_argument(
        "--clip", type=Path, nargs="+", default=(), metavar="FILE", help="text encoders"
    )
    parser.add_argument(
        "--clip-type",
        default="stable_diffusion",
        metavar="TYPE",
        help="what they are for, by the names of ComfyUI's CLIP loaders, such as flux",
    )


def add_save_every(parser: argparse.ArgumentParser) -> None:
    """How much of a long command's work an interruption may cost."""
    parser.add_argument(
        "--save-every",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often to save the state beside the file to write; default: %(default)s",
    )


def asked(args: argparse.Namespace, files: Mapping[str, Path | None]) -> str:
    """All that sampling rests on, so that the state of an interrupted command is of this or of another.

    Args:
        args: of `evaluate.add_sampling`.
        files: read by the command, by what they are to it.
    """
    names = ("count", "steps", "cfg", "size", "sampler", "seed", "clip", "clip_type", "host")
    options = [(name, str(getattr(args, name))) for name in names]
    stats = [
        (name, str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns)
        for name, path in sorted(files.items())
        if path is not None
    ]
    return repr((options, stats, list(texts_of(args.prompts))))
