"""Writes a checkpoint of SDXL's size and shape with random weights, to measure on.

    python -m benchmarks.sdxl_checkpoint sdxl-random.safetensors

2567 M parameters in float16 under the original key names: weights are normal with a standard
deviation of 1 / sqrt(fan in), norms are ones, biases are zero, so that the network stays finite.
The same seed gives the same bytes. 5.1 GB; one tensor is in memory at a time.
"""

import argparse
import math
import zlib
from pathlib import Path

import torch

from benchmarks.unet_shapes import sdxl
from comfy_vq.checkpoint import Stored, write_dense

PREFIX = "model.diffusion_model."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shapes = sdxl()
    tensors = {
        PREFIX + key: Stored(
            torch.float16, shape, lambda k=key, s=shape: random_tensor(k, s, args.seed)
        )
        for key, shape in shapes.items()
    }
    write_dense(args.out, tensors)
    numel = sum(math.prod(shape) for shape in shapes.values())
    print(f"{args.out}: {numel / 1e6:.1f} M parameters, {args.out.stat().st_size / 1e9:.3f} GB")


def random_tensor(key: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A weight, float16, that depends on its name and the seed alone."""
    if len(shape) == 1:
        return torch.full(shape, float(key.endswith(".weight")), dtype=torch.float16)
    generator = torch.Generator().manual_seed(seed + zlib.crc32(key.encode()))
    weight = torch.randn(shape, generator=generator)
    return (weight / math.sqrt(math.prod(shape[1:]))).half()


if __name__ == "__main__":
    main()
