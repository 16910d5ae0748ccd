"""`reproduce`: VQDM's protocol, and this project's own at the same bits and in the same time."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..errors import VQError
from ..hosts.comfy_boot import boot
from ..hosts.locate import VARIABLE, find_comfyui
from ..protocol.numbers import MODELS, Numbers
from . import arguments

_DEMO = "demo"
_BOOKS = (2, 3, 4)
_EVALUATED, _CALIBRATED = 32, 64
_OF_DEMO = 12


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="quantize by the protocol of the VQDM paper and by our own, and compare",
        description=(
            "Quantize and fine-tune a UNet by the protocol of VQDM (arXiv 2409.00492), then calibrate, quantize and "
            "fine-tune it our way at the same true bits and in the same time, and measure both on prompts that "
            "neither has seen, beside the paper's table. Interrupted, the same command goes on with what is not "
            "done yet."
        ),
    )
    parser.add_argument(
        "--model",
        choices=tuple(MODELS),
        required=True,
        help="whose numbers to run by; demo: the shipped model, with much smaller ones",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the dense model; default: the shipped one"
    )
    arguments.add_encoders(parser)
    parser.add_argument("--vae", type=Path, metavar="FILE", help="autoencoder")
    parser.add_argument(
        "--out", type=Path, default=Path("reproduce_out"), help="folder for all results"
    )
    parser.add_argument(
        "--bits",
        type=int,
        choices=_BOOKS,
        nargs="+",
        default=_BOOKS,
        metavar="N",
        help="codebooks for each layer, 2, 3 or 4: of SDXL 2.15, 3.15 and 4.15 bits; default: all three",
    )
    parser.add_argument(
        "--evaluate",
        type=arguments.count,
        metavar="N",
        help=f"the last N prompts are only measured on; default: {_EVALUATED}, of the demo "
        f"{_OF_DEMO} held-out scenes",
    )
    _add_numbers(parser)
    parser.add_argument(
        "--our-count",
        type=arguments.count,
        metavar="N",
        help=f"prompts that ours is calibrated on; default: {_CALIBRATED}, of the demo {_OF_DEMO}",
    )
    arguments.add_encoding(parser)
    for name, what in (("clip-score", "for CLIP scores"), ("pickscore", "for Pickscores")):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FOLDER", help=f"a CLIP of transformers, {what}"
        )
    parser.add_argument("--seed", type=int, default=1000, help="of the first prompt")
    parser.set_defaults(run=run)


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("numbers of VQDM", "the paper's by default, of the demo less")
    explained = {
        "count": "prompts sampled before each block group",
        "steps": "of sampling",
        "cfg": "guidance; 1 for none",
        "sampler": "by ComfyUI's name",
        "scheduler": "by ComfyUI's name",
        "kmeans_steps": "for each codebook at the start",
        "adam_steps": "between two beam searches",
        "beam": "rows kept of each row in a search",
        "rounds": "of Adam and beam search, at most",
        "tuning_count": "prompts learned from in an epoch",
        "epochs": "of fine-tuning; 0 for none",
        "batch": "steps of sampling learned from at a time",
        "rate": "of fine-tuning",
        "size": "of pictures, in pixels",
    }
    for field in fields(Numbers):
        kind: Any = {"int": arguments.count, "float": float, "str": str}.get(str(field.type))
        if field.name == "epochs":
            kind = int
        group.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind or arguments.count,
            help=f"{explained[field.name]}; {field.default or 'by family'}, of the demo "
            f"{getattr(MODELS[_DEMO], field.name) or 'its own'}",
        )


def run(args: argparse.Namespace) -> None:
    given = {field.name: getattr(args, field.name) for field in fields(Numbers)}
    numbers = replace(
        MODELS[args.model], **{name: value for name, value in given.items() if value is not None}
    )
    weights = args.weights
    if args.model == _DEMO and weights is None:
        from ..demo.model_files import model_files

        weights = model_files().unet
    if weights is None:
        raise VQError(f"--weights: found none, expected the file of a dense {args.model}")
    if not weights.is_file():
        raise VQError(f"{weights}: no such file; check the path")
    comfyui = find_comfyui()
    if comfyui is None:
        raise VQError(
            f"reproduce: found no ComfyUI, through which the model runs; name its folder in the environment "
            f"variable {VARIABLE}"
        )
    boot(comfyui)
    from .reproducing import reproduce

    few = args.model == _DEMO
    args.evaluate = args.evaluate or (_OF_DEMO if few else _EVALUATED)
    args.our_count = args.our_count or (_OF_DEMO if few else _CALIBRATED)
    reproduce(args, weights, numbers)
