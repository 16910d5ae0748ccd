"""Train the tables of the codec ``trellis`` that comfy_vq ships, on i.i.d. Gaussian weights.

    python -m training.train_trellis [--rows N] [--rounds R] [--device cuda]

Lloyd's method on a trellis: find the best paths, then make each value the mean of the weights whose
windows name it. It begins with the quantiles of the normal distribution in random order. Printed is what a
table reaches on other weights, and the time of one thread for the search, which takes far the most.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from comfy_vq.kernels.windows import windows
from safetensors.torch import save_file
from torch import Tensor

from comfy_vq.codecs import CodebookSet, trellis, viterbi
from comfy_vq.codecs.codebooks import table_name, to_grid

OUT = Path(__file__).resolve().parents[1] / "comfy_vq" / "codecs" / "trellis.safetensors"
COLUMNS = 1024
RIDGE = 4
"""Weights that a value counts for in its next mean, so that rare windows keep theirs."""


def normalized_rows(rows: int, seed: int, device: str) -> Tensor:
    """Gaussian rows divided by their root mean square, as the encoder does."""
    x = torch.randn(rows, COLUMNS, generator=torch.Generator().manual_seed(seed)).to(device)
    return x / x.square().mean(1, keepdim=True).sqrt()


def shuffled_quantiles(window: int, device: str) -> Tensor:
    """float32 ``[2^window]``."""
    count = 1 << window
    quantiles = (torch.arange(count) + 0.5) / count
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return (torch.erfinv(2 * quantiles - 1) * math.sqrt(2))[order].to(device)


def refit(weights: Tensor, states: Tensor, table: Tensor) -> Tensor:
    """The mean of the weights of each state, drawn a little towards the present value."""
    index, ones = states.flatten(), torch.ones_like(weights).flatten()
    counts = torch.zeros_like(table).index_add_(0, index, ones)
    sums = torch.zeros_like(table).index_add_(0, index, weights.flatten())
    return (sums + RIDGE * table) / (counts + RIDGE)


def sqnr_db(weights: Tensor, table: Tensor, states: Tensor) -> float:
    error = (weights - table[states.flatten()].view_as(weights)).double().square().sum()
    return 10 * math.log10(float(weights.double().square().sum() / error))


def found(weights: Tensor, table: Tensor, bits: int) -> Tensor:
    """States int32 ``[rows, columns]`` of the best paths."""
    codes = viterbi.search(weights, table, bits)
    return windows(codes, len(table).bit_length() - 1).flatten(1)


def train(weights: Tensor, bits: int, window: int, rounds: int) -> CodebookSet:
    """A table on the integer grid, after rounds in floating point."""
    table = shuffled_quantiles(window, str(weights.device))
    for _ in range(rounds):
        table = refit(weights, found(weights, table, bits), table)
    return to_grid(table_name(bits, window), table[None, :, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256, help=f"of {COLUMNS} weights, to train on")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=32, help="rows, to measure on")
    parser.add_argument("--bits", type=int, nargs="+", default=list(trellis.BITS))
    parser.add_argument("--windows", type=int, nargs="+", default=list(trellis.WINDOWS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    training = normalized_rows(args.rows, 1, args.device)
    held_out = normalized_rows(args.held_out, 2, args.device)
    tensors, metadata = {}, {"format": "pt"}
    for bits in args.bits:
        for window in args.windows:
            made = train(training, bits, window, args.rounds)
            values = made.values().flatten()
            started = time.process_time()
            quality = sqnr_db(held_out, values, found(held_out, values, bits))
            each = 1e6 * (time.process_time() - started) / held_out.numel()
            tensors[made.name], tensors[f"{made.name}.grid"] = made.codebooks.cpu(), made.grid
            if window == trellis.TrellisSpec(bits).window:
                metadata[f"trellis {bits}"] = f"{quality:.3f}"
            step = f"step {made.step:.5f}"
            print(f"{made.name}: {quality:.2f} dB held out, {each:.1f} us, {step}", flush=True)
    save_file(tensors, args.out, metadata)


if __name__ == "__main__":
    main()
