"""Train the demo's text-to-image model from nothing, write it, and measure it.

    python -m training.train_demo_model autoencoder --work FOLDER
    python -m training.train_demo_model narrow --work FOLDER
    python -m training.train_demo_model wide --work FOLDER
    python -m training.train_demo_model export --work FOLDER
    python -m training.train_demo_model measure

The first three go on from their checkpoint in FOLDER if it is there. The denoiser is trained
narrow first, which is many times faster, and then widened and trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from comfy_vq.demo.scenes import held_out, training
from training.autoencoder import Autoencoder
from training.autoencoder import train as train_autoencoder
from training.data import pool
from training.denoiser import WIDTH, Trainer
from training.export import read_autoencoder, read_unet, write_autoencoder, write_unet
from training.latents import latents
from training.measure import correlation_of_copies, measure_checker, measure_model

NARROW = 64
SHIPPED = Path(__file__).resolve().parent / "demo_model"


def _autoencoder(args: argparse.Namespace) -> None:
    pictures, _ = pool(args.work / "pool.npz")
    train_autoencoder(
        pictures, args.device, args.work / "autoencoder.pt", steps=args.steps, batch=args.batch
    )


def _trainer(args: argparse.Namespace, width: int) -> Trainer:
    return Trainer(args.device, args.work / f"unet-{width}.pt", width)


def _denoiser(args: argparse.Namespace) -> None:
    pictures, which = pool(args.work / "pool.npz")
    standardised = torch.cat([latents(part.float() / 255) for part in pictures.split(1000)])
    trainer = _trainer(args, args.width)
    if args.width == WIDTH and trainer.step == 0:
        trainer.start_from(_trainer(args, NARROW))
    trainer.train(standardised, which, steps=args.steps, batch=args.batch, peak=args.peak)


def _export(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    write_unet(_trainer(args, WIDTH).average, args.out)
    autoencoder = Autoencoder()
    saved = torch.load(args.work / "autoencoder.pt", map_location="cpu", weights_only=True)
    autoencoder.load_state_dict(saved["model"])
    write_autoencoder(autoencoder, args.out)


def _measure(args: argparse.Namespace) -> None:
    def line(what: str, shares: dict[str, float], count: int) -> None:
        values = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        print(f"{what} ({count} pictures): {values}", flush=True)

    autoencoder = read_autoencoder(args.model).to(args.device)
    drawn, decoded, psnr = measure_checker(autoencoder)
    count = 4 * (len(training()) + len(held_out()))
    line("checker, drawn scenes", drawn, count)
    line("checker, drawn scenes through the autoencoder", decoded, count)
    print(f"autoencoder: {psnr:.1f} dB")
    model = read_unet(args.model).to(args.device)
    alike = correlation_of_copies(model, WIDTH // NARROW)
    print(
        f"copies of a channel correlate by {min(alike.values()):.2f} to {max(alike.values()):.2f}"
    )
    settings = {"seed": args.seed, "guidance": args.guidance, "steps": args.sampler_steps}
    shares, pictures = measure_model(model, autoencoder, held_out(), args.each, **settings)
    line("model, held-out captions", shares, len(pictures))
    if args.grid is not None:
        side = 8
        rows = [list(pictures[i : i + side]) for i in range(0, len(pictures) // side * side, side)]
        sheet = Image.new("RGB", (64 * side, 64 * len(rows)))
        for y, row in enumerate(rows):
            for x, picture in enumerate(row):
                sheet.paste(Image.fromarray(picture), (64 * x, 64 * y))
        sheet.save(args.grid)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device", type=torch.device, default=device)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("autoencoder", help="train the autoencoder")
    command.add_argument("--work", type=Path, required=True, help="checkpoints and drawn scenes")
    command.add_argument("--steps", type=int, default=800)
    command.add_argument("--batch", type=int, default=16)
    command.set_defaults(run=_autoencoder)

    for name, width, steps, batch, peak in (
        ("narrow", NARROW, 2300, 32, 1e-3),
        ("wide", WIDTH, 740, 16, 3e-4),
    ):
        command = commands.add_parser(name, help=f"train the denoiser, {width} channels")
        command.add_argument("--work", type=Path, required=True, help="checkpoints and scenes")
        command.add_argument("--steps", type=int, default=steps, help="resumed ones included")
        command.add_argument("--batch", type=int, default=batch)
        command.add_argument("--peak", type=float, default=peak, help="highest learning rate")
        command.set_defaults(run=_denoiser, width=width)

    command = commands.add_parser("export", help="write the two files that are shipped")
    command.add_argument("--work", type=Path, required=True, help="where the checkpoints are")
    command.add_argument("--out", type=Path, default=SHIPPED)
    command.set_defaults(run=_export)

    command = commands.add_parser("measure", help="the checker's and the model's accuracy")
    command.add_argument("--model", type=Path, default=SHIPPED)
    command.add_argument("--each", type=int, default=2, help="pictures per held-out caption")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--guidance", type=float, default=3.0)
    command.add_argument("--sampler-steps", type=int, default=20)
    command.add_argument("--grid", type=Path, help="also save the sampled pictures here")
    command.set_defaults(run=_measure)

    args = parser.parse_args()
    if "work" in args:
        args.work.mkdir(parents=True, exist_ok=True)
    args.run(args)


if __name__ == "__main__":
    main()
