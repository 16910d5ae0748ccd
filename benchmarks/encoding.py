"""How fast each codec encodes on a device, and how long all layers of SDXL's UNet would take.

    python -m benchmarks.encoding [--device cuda] [--share 0.05] [--bits 3] [--efforts fast balanced]

Random weights of every so many-th of its layers in the order of their sizes, so that each kind has its
share; the minutes are extrapolated by the number of weights. A small layer is encoded once before,
which compiles what there is to compile. On a CPU take a small share; the time there is the processor's own,
which other processes change less, and with one thread (``OMP_NUM_THREADS=1``) that of a core.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import product

import torch

from benchmarks.timing import synchronize, where
from benchmarks.unet_shapes import sdxl
from comfy_vq import codecs, kernels


def layers(share: float) -> tuple[list[tuple[int, ...]], int]:
    """Shapes of that share of the layers, and the number of weights of all."""
    shapes = [shape for shape in sdxl().values() if len(shape) > 1]
    shapes = [s for s in shapes if codecs.get("trellis").supports(s)]
    every = max(1, round(1 / share))
    total = sum(map(math.prod, shapes))
    return sorted(shapes, key=lambda s: (math.prod(s), s))[every // 2 :: every], total


def seconds(
    shapes: list[tuple[int, ...]], codec: str, effort: str, bits: int, device: torch.device
) -> float:
    """To encode weights of these shapes, that are on the device already."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    taken = []
    for shape in ((32, 128), *shapes):
        weight = torch.randn(shape, device=device) * math.prod(shape[1:]) ** -0.5
        synchronize(device)
        started = clock()
        codecs.encode(weight, bits, codec, effort=effort, unbiased=True)
        synchronize(device)
        taken.append(clock() - started)
    return sum(taken[1:])


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--share", type=float, help="of the layers; 0.05, on a CPU 0.002")
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument(
        "--efforts", nargs="*", choices=codecs.EFFORTS, default=["fast", "balanced"]
    )
    parser.add_argument("--codecs", nargs="*", choices=codecs.CODECS, default=list(codecs.CODECS))
    args = parser.parse_args()
    device = torch.device(args.device)
    shapes, total = layers(args.share or (0.05 if device.type == "cuda" else 0.002))
    measured = sum(map(math.prod, shapes))
    print(where(device))
    print(f"* {kernels.explain('best_path', device)}")
    print(f"* {len(shapes)} layers, {measured / total:.2%} of {total / 1e6:.0f} M weights\n")
    print("| codec | effort | Mweights/s | minutes for SDXL |\n|---|---|---|---|")
    for codec, effort in product(args.codecs, args.efforts):
        found = seconds(shapes, codec, effort, args.bits, device)
        rate = measured / found
        line = f"| {codec} | {effort} | {rate / 1e6:.3f} | {total / rate / 60:.1f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
