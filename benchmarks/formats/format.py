"""What a format is here: a way to make a file of a dense model, and what that file really takes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from comfy_vq.demo import task
from comfy_vq.evaluation.bench import Size
from comfy_vq.quantize import WeightSource

_BYTES, _WEIGHTS = "stored_bytes", "weights"
ENDS = ("input_blocks.0.0.weight", "conv_in.weight", "out.2.weight", "conv_out.weight")
"""A UNet's first and last convolution: a thousandth of the weights, of which every format is spared
here; none stands them coarse, and who uses these formats leaves them alone."""

Make = Callable[[WeightSource, Path], None]
Coder = Callable[[Tensor], tuple[Tensor, int]]
"""A float32 matrix ``[rows, columns]`` to what a format makes of it, and the bytes that it stores."""


@dataclass(frozen=True)
class Format:
    """A way to store a model.

    Attributes:
        name: for people.
        make: writes a file that the benches load: GGUF, VQ, or the decoded weights.
        suffix: of the file.
    """

    name: str
    make: Make
    suffix: str = ".safetensors"

    def file(self, weights: WeightSource, folder: Path) -> Path:
        """The file of a model in this format, made where it is not there yet."""
        path = folder / f"{self.name.replace(' ', '-')}{self.suffix}"
        if not path.exists():
            partial = path.with_name(f".{path.name}")
            self.make(weights, partial)
            os.replace(partial, path)
        return path


def size_in(path: Path) -> Size:
    """Of what a format stores for the model in a file, which may hold it decoded."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            noted = file.metadata() or {}
        if _BYTES in noted:
            return Size(int(noted[_BYTES]), int(noted[_WEIGHTS]))
    return task.size_of(path)


def coded(weights: WeightSource, key: str) -> bool:
    """Whether formats without a rule of their own code a tensor."""
    return weights.codable(key) and key not in ENDS


def by_layer(coder: Coder, rest: torch.dtype | None = None) -> Make:
    """Every layer by a coder, as ``[out, in * taps]``; all else as it is, or cast to ``rest``."""

    def make(weights: WeightSource, path: Path) -> None:
        decoded, nbytes = {}, 0
        for key in weights.keys():  # noqa: SIM118 - not a mapping
            tensor = weights.read(key)
            if coded(weights, key):
                matrix, stored = coder(tensor.float().flatten(1))
                decoded[key] = matrix.reshape(tensor.shape).to(tensor.dtype)
                nbytes += stored
            else:
                kept = tensor if rest is None else tensor.to(rest)
                decoded[key] = kept.to(tensor.dtype)
                nbytes += kept.nbytes
        write_decoded(path, decoded, nbytes)

    return make


def write_decoded(path: Path, weights: dict[str, Tensor], nbytes: int) -> None:
    """Decoded weights, with a note of what they take in their format."""
    numel = sum(tensor.numel() for tensor in weights.values())
    whole = {key: tensor.contiguous() for key, tensor in weights.items()}
    save_file(whole, path, {_BYTES: str(nbytes), _WEIGHTS: str(numel)})
