"""How VQDM stores a layer: codes, codebooks of its own, and a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..codecs.codebooks import ENTRIES, GROUP
from ..codecs.weight import from_matrix

CODE_BITS = 8
VALUE_BITS = 16


@dataclass(frozen=True, eq=False)
class SummedWeight:
    """A weight as sums of codebook entries, times the scale of the row.

    Attributes:
        shape: of the weight, ``[out, in, ...]``.
        codes: uint8 ``[rows, groups, M]``; a group is 8 columns, of convolutions 8 inputs at one tap.
        codebooks: float32 ``[M, 256, 8]``.
        scales: float32 ``[rows]``.
    """

    shape: tuple[int, ...]
    codes: Tensor
    codebooks: Tensor
    scales: Tensor

    @property
    def bits(self) -> int:
        """Everything stored: codes of 8 bits, codebooks and scales in half precision."""
        return CODE_BITS * self.codes.numel() + VALUE_BITS * (
            self.codebooks.numel() + self.scales.numel()
        )

    def stored(self) -> SummedWeight:
        """With codebooks and scales rounded to half precision."""
        rounded = (tensor.detach().half().float() for tensor in (self.codebooks, self.scales))
        return replace(self, **dict(zip(("codebooks", "scales"), rounded, strict=True)))

    def dense(self) -> Tensor:
        """The weight, float32; gradients reach codebooks and scales."""
        matrix = summed(self.codes, self.codebooks, self.scales)
        return from_matrix(matrix, self.shape)


def summed(codes: Tensor, codebooks: Tensor, scales: Tensor) -> Tensor:
    """The matrix ``[rows, columns]`` of a ``SummedWeight``; differentiable, but for the codes."""
    books = codebooks.shape[0]
    offsets = ENTRIES * torch.arange(books, device=codes.device)
    entries = codes.long().view(-1, books) + offsets
    groups = F.embedding_bag(entries, codebooks.reshape(-1, GROUP), mode="sum")
    return groups.view(len(codes), -1) * scales[:, None]


def tensors_of(weights: Mapping[str, SummedWeight]) -> dict[str, Tensor]:
    """What is stored of layers, on the CPU: ``X.codes``, ``X.codebooks`` and ``X.scales``."""
    found = {}
    for name, weight in weights.items():
        found[f"{name}.codes"] = weight.codes.cpu()
        found[f"{name}.codebooks"] = weight.codebooks.detach().half().cpu()
        found[f"{name}.scales"] = weight.scales.detach().half().cpu()
    return found


def weights_in(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, SummedWeight]:
    """The layers in ``tensors_of``, by name, whose weights have these shapes."""
    return {
        name: SummedWeight(
            tuple(shape),
            tensors[f"{name}.codes"],
            tensors[f"{name}.codebooks"].float(),
            tensors[f"{name}.scales"].float(),
        )
        for name, shape in shapes.items()
    }
