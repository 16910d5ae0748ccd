"""What a codec makes of a weight: its pieces, its codebook set, its specification."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from .. import kernels

RANKS = (2, 3, 4, 5)
"""Dimensions of weights that can be coded: linear layers and convolutions."""


@dataclass(frozen=True)
class Piece:
    """Dtype and shape of one stored tensor, known before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class CodebookSet:
    """M codebooks of integer entries on one grid: value = step * (sum of M entries - offset).

    Attributes:
        name: under which layers refer to it; shipped sets are ``gaussian-M<M>``.
        codebooks: uint8 ``[M, entries, group]``; the M ranges sum to at most 255, so that a sum
            of M entries is a byte.
        step: grid spacing, in units of a row scale.
        offset: the sum that stands for zero.
    """

    name: str
    codebooks: Tensor
    step: float
    offset: int

    @classmethod
    def from_grid(cls, name: str, codebooks: Tensor, grid: Tensor) -> CodebookSet:
        """From its stored form; ``grid`` is float32 ``[2]``: step, offset."""
        step, offset = grid.tolist()
        return cls(name, codebooks, step, int(offset))

    @property
    def grid(self) -> Tensor:
        """The stored form of step and offset, float32 ``[2]``."""
        return torch.tensor([self.step, self.offset], dtype=torch.float32)

    @property
    def nbytes(self) -> int:
        return self.codebooks.nbytes + self.grid.nbytes

    def values(self) -> Tensor:
        """Real-valued codebooks, float32 ``[M, entries, group]``, whose sums need no offset.

        All but the first are centred, since a search that visits them in order looks at what
        the ones before leave over.
        """
        values = self.codebooks.float()
        means = values[1:].mean((1, 2), keepdim=True)
        values[1:] -= means
        values[0] += means.sum() - self.offset
        return values * self.step

    def to(self, device: torch.device | str) -> CodebookSet:
        return replace(self, codebooks=self.codebooks.to(device))


class Spec(Protocol):
    """How a weight was coded: a frozen dataclass of a codec."""

    codec: ClassVar[str]
    """Registry name."""

    def coded(self, weight: VQWeight) -> kernels.Coded:
        """The coded matrix (see ``to_matrix``) as the kernels take it."""
        ...


@dataclass(frozen=True, eq=False)
class VQWeight:
    """A coded weight.

    Attributes:
        spec: how it was coded; a frozen dataclass of its codec, see ``Spec``.
        shape: logical shape, ``[out, in]``, or ``[out, in, *kernel]`` of a convolution in one, two
            or three dimensions.
        dtype: of the weight that was coded; what a dense copy is written as.
        tensors: the layer's own pieces by name; the first dimension of each is that of ``shape``.
        codebooks: the set that it refers to, or None where its codec has none.
    """

    spec: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    tensors: Mapping[str, Tensor]
    codebooks: CodebookSet | None = None

    @property
    def codec(self) -> str:
        """Registry name of the codec."""
        return self.spec.codec

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the layer's own pieces, without the set."""
        return sum(t.nbytes for t in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Everything stored for this weight alone, its codebook set included, per weight."""
        shared = 0 if self.codebooks is None else self.codebooks.nbytes
        return 8 * (self.nbytes + shared) / self.numel

    def decode(self, dtype: torch.dtype = torch.float32, out: Tensor | None = None) -> Tensor:
        """The weight of ``shape``, computed in float32, cast to ``dtype``.

        A convolution's weight comes in channels_last memory, the order in which it is coded.

        Args:
            dtype: of the result.
            out: contiguous ``[rows, columns]`` of ``dtype`` (see ``matrix_shape``) to decode into;
                the result is a view of it.
        """
        return from_matrix(kernels.decode(self.coded(), dtype, out), self.shape)

    def coded(self) -> kernels.Coded:
        """As the kernels take it."""
        return self.spec.coded(self)

    def rows(self, part: slice) -> VQWeight:
        """A slice of its outputs, which shares the memory."""
        tensors = {name: t[part] for name, t in self.tensors.items()}
        count = len(range(*part.indices(self.shape[0])))
        return replace(self, shape=(count, *self.shape[1:]), tensors=tensors)

    def to(self, device: torch.device | str) -> VQWeight:
        tensors = {name: t.to(device) for name, t in self.tensors.items()}
        shared = None if self.codebooks is None else self.codebooks.to(device)
        return replace(self, tensors=tensors, codebooks=shared)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns under which a weight of ``shape`` is coded."""
    return shape[0], math.prod(shape[1:])


def to_matrix(weight: Tensor) -> Tensor:
    """``[out, in]`` as it is, ``[out, in, *kernel]`` as ``[out, taps * in]``, input fastest."""
    return weight.movedim(1, -1).reshape(weight.shape[0], -1)


def from_matrix(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``to_matrix``; never copies."""
    out, inputs, *kernel = shape
    return matrix.view(out, *kernel, inputs).movedim(-1, 1)
