"""The command line: one module per command, each a parser and a call into the rooms below."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import VQError
from . import calibrate, decode, demo, doctor, evaluate, finetune, info, quantize, reproduce

COMMANDS = (quantize, calibrate, info, decode, evaluate, finetune, reproduce, demo, doctor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0, or 2 for bad input (one line on stderr), 130 if interrupted, or 1
        if nobody reads the output to its end.
    """
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
        sys.stdout.flush()
    except VQError as error:
        print(f"comfy-vq: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncomfy-vq: interrupted; no unfinished file is left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, such as `head`, has enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m comfy_vq",
        description="Compress diffusion models to 2-8 bits per weight by vector quantization.",
    )
    parser.add_argument("--version", action="version", version=f"comfy-vq {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser
