"""Train the codebook sets that comfy_vq ships, on i.i.d. Gaussian groups.

A rotated, row-normalized weight is nearly Gaussian, so one set per M serves every layer.

    python -m training.train_codebooks [--groups N] [--rounds R] [--device cuda]
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from comfy_vq import codecs
from comfy_vq.codecs import beam
from comfy_vq.codecs import codebooks as cb

OUT = Path(__file__).resolve().parents[1] / "comfy_vq" / "codecs" / "gaussian.safetensors"


def normalized_rows(rows: int, columns: int, seed: int, device: str) -> torch.Tensor:
    """Groups ``[n, 8]`` of Gaussian rows divided by their root mean square, as the encoder does."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return (x / x.square().mean(1, keepdim=True).sqrt()).view(-1, cb.GROUP).to(device)


def sqnr_db(groups: torch.Tensor, values: torch.Tensor, width: int) -> float:
    errors = beam.search(groups, values, width)[1]
    return 10 * math.log10(float(groups.double().square().sum() / errors.double().sum()))


def int8_sqnr_db(groups: torch.Tensor, columns: int) -> float:
    weight = groups.view(-1, columns)
    error = weight - codecs.encode(weight, bits=8, codec="int8").decode()
    return 10 * math.log10(float(weight.double().square().sum() / error.double().square().sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=64 * 1024)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--books", type=int, nargs="*", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    columns = 1024
    training = normalized_rows(args.groups * cb.GROUP // columns, columns, 1, args.device)
    held_out = normalized_rows(256, columns, 2, args.device)
    tensors, metadata = {}, {"format": "pt", "int8 8": f"{int8_sqnr_db(held_out, columns):.3f}"}
    for books in args.books:
        start = cb.residual_kmeans(training, books, 10, torch.Generator().manual_seed(0))
        made = cb.train(training, start, rounds=args.rounds, beam_width=8)
        name, quality = f"gaussian-M{books}", sqnr_db(held_out, made.values(), 8)
        tensors[name], tensors[f"{name}.grid"] = made.codebooks.cpu(), made.grid
        metadata[f"additive {books}"] = f"{quality:.3f}"
        print(f"M={books}: {quality:.2f} dB held out at beam 8, step {made.step:.5f}", flush=True)
        save_file(tensors, args.out, metadata)


if __name__ == "__main__":
    main()
