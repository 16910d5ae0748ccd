"""`demo`: the shipped model at 4, 3 and 2.2 bits, pictures and figures side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import checkpoint
from ..codecs import AUTO, codec_of
from ..quantize import plan_for
from . import arguments
from .quantize import encode_to


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo",
        help="quantize the shipped model, sample from it, and compare",
        description=(
            "Quantize the shipped text-to-image model at 4, 3 and 2.2 bits, sample the same prompts "
            "and seeds from each, and write the VQ files and the ruler's report with pictures and plots."
        ),
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the results")
    parser.add_argument(
        "--host",
        choices=("auto", "comfyui", "diffusers"),
        default="auto",
        help="what to sample through; auto: ComfyUI where one is found, else diffusers",
    )
    parser.add_argument(
        "--model", type=Path, help="folder of unet.safetensors and autoencoder.safetensors"
    )
    arguments.add_encoding(parser)
    parser.add_argument(
        "--pictures", type=arguments.count, default=24, help="prompts to sample per model"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    # Only here: it needs packages that no other command does.
    from ..demo import run as demo
    from ..demo.model_files import model_files
    from ..demo.task import subjects

    def quantize(src: Path, dst: Path, bits: float) -> None:
        weights = checkpoint.open_dense(src)
        codec = codec_of(AUTO, args.effort)
        plan = plan_for(weights, bits, codec=codec, effort=args.effort)
        encode_to(dst, weights, plan, args.effort, args.device)

    files, shown = model_files(args.model), subjects(args.pictures)
    demo.run(args.out, files, demo.choose_bench(args.host, files, shown), shown, quantize)
