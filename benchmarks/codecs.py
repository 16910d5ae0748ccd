"""Rate and distortion of the codecs on i.i.d. Gaussian weights, where theory has its bounds.

    python -m benchmarks.codecs [--size 2048] [--efforts best] [--books 2 3 4] [--device cuda]

SQNR in dB, bits per weight with everything counted, the distance to Shannon's bound of 6.02 dB per
bit, and how much faster than the slowest row each encodes.
"""

import argparse
import math
import time

import torch

from comfy_vq import codecs
from comfy_vq.evaluation import sqnr_db


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the weight")
    parser.add_argument("--efforts", nargs="*", default=list(codecs.EFFORTS))
    parser.add_argument("--books", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(1234)
    weight = (torch.randn(args.size, args.size, generator=generator) * 0.02).to(args.device)
    rows = []
    for effort in args.efforts:
        for books in args.books:
            started = time.perf_counter()
            coded = codecs.encode(weight, books, effort=effort)
            found = sqnr_db(weight, coded.decode())
            rows.append((effort, books, coded, found, time.perf_counter() - started))
    slowest = max(row[-1] for row in rows)
    print(f"{args.size}x{args.size} i.i.d. Gaussian, {args.device}, torch {torch.__version__}")
    print("| effort | M | codebooks | bits per weight | SQNR dB | to Shannon dB | speed |")
    print("|---|---|---|---|---|---|---|")
    for effort, books, coded, found, seconds in rows:
        bound = 20 * math.log10(2) * coded.bits_per_weight
        print(
            f"| {effort} | {books} | {coded.codebooks.name} | {coded.bits_per_weight:.3f} "
            f"| {found:.2f} | {bound - found:.2f} | {slowest / seconds:.1f}x |"
        )


if __name__ == "__main__":
    main()
