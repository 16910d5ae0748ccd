"""Rate and distortion of the codecs on i.i.d. weights, for which theory has its bounds.

    python -m benchmarks.codecs [--size 2048] [--codecs additive trellis] [--efforts balanced]
                                [--bits 2 3 4] [--weights gaussian laplace student] [--device cuda]

SQNR in dB, bits per weight with everything counted, the distance to Shannon's bound for Gaussian
weights of 6.02 dB per bit (others have a higher one), and how much faster than the slowest row each
encodes.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from comfy_vq import codecs
from comfy_vq.evaluation import sqnr_db


def gaussian(size: int, generator: Generator) -> Tensor:
    return torch.randn(size, size, generator=generator)


def laplace(size: int, generator: Generator) -> Tensor:
    ends = torch.empty(2, size, size).exponential_(generator=generator)
    return ends[0] - ends[1]


def student(size: int, generator: Generator) -> Tensor:
    """Student's t with 5 degrees of freedom."""
    energy = sum(gaussian(size, generator).square() for _ in range(5))
    return gaussian(size, generator) / (energy / 5).sqrt()


WEIGHTS: dict[str, Callable[[int, Generator], Tensor]] = {
    function.__name__: function for function in (gaussian, laplace, student)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of the weight")
    parser.add_argument("--codecs", nargs="*", default=["additive", "trellis"])
    parser.add_argument("--efforts", nargs="*", default=list(codecs.EFFORTS))
    parser.add_argument("--bits", type=int, nargs="*", default=[2, 3, 4])
    parser.add_argument("--weights", nargs="*", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    # Of a processor its own time, which other processes do not change.
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    rows = []
    for name in args.weights:
        drawn = WEIGHTS[name](args.size, torch.Generator().manual_seed(1234))
        weight = (drawn * 0.02).to(args.device)
        for effort in args.efforts:
            for bits in args.bits:
                for codec in args.codecs:
                    started = clock()
                    coded = codecs.encode(weight, bits, codec, effort=effort)
                    found = sqnr_db(weight, coded.decode())
                    seconds = clock() - started
                    rows.append((name, effort, codec, coded, found, seconds))
    slowest = max(row[-1] for row in rows)
    print(f"{args.size}x{args.size} i.i.d., {args.device}, torch {torch.__version__}")
    print(
        "| weights | effort | codec | codebooks | bits per weight | SQNR dB | to Shannon dB | speed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, effort, codec, coded, found, seconds in rows:
        bound = 20 * math.log10(2) * coded.bits_per_weight
        print(
            f"| {name} | {effort} | {codec} | {coded.codebooks.name} | {coded.bits_per_weight:.3f} "
            f"| {found:.2f} | {bound - found:.2f} | {slowest / seconds:.1f}x |"
        )


if __name__ == "__main__":
    main()
