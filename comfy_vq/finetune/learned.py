"""A coded weight that learns: row scales by their gradient, codes by following a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import kernels
from ..codecs import VQWeight
from ..codecs.weight import from_matrix
from .learned_set import LearnedSet

_LARGEST = torch.finfo(torch.float16).max


class LearnedWeight:
    """Stands in for a coded weight while a network learns.

    The network computes with what would be stored now: half-precision scales and the present codes.
    A gradient of the dense weight becomes one of ``factors``, one of the set's entries where there is
    such a set and, while ``following``, one of the numbers that codes stand for.

    Args:
        weight: on the device of the network; its pieces are copied.
        learned_set: in the place of the weight's own reference; None where its set does not learn.

    Attributes:
        factors: float32 ``[rows]``, by which the row scales are multiplied; ones at first.
        following: whether gradients for the codes are kept.
        gradient: of these numbers, in units of the row scale and rotated as they are: float32
            ``[rows, columns]``, summed since it was taken last; None where there is none.
    """

    def __init__(self, weight: VQWeight, learned_set: LearnedSet | None = None) -> None:
        pieces = {name: tensor.clone() for name, tensor in weight.tensors.items()}
        self._weight = replace(weight, tensors=pieces)
        self._set = learned_set
        self.factors = nn.Parameter(torch.ones(weight.shape[0], device=pieces["scales"].device))
        self.following = False
        self.gradient: Tensor | None = None
        self._scales = weight.tensors["scales"].float()

    @property
    def weight(self) -> VQWeight:
        """As it would be stored now; its pieces change in place."""
        if self._set is None:
            return self._weight
        return replace(self._weight, codebooks=self._set.stored)

    @property
    def codes(self) -> Tensor:
        return self._weight.tensors["codes"]

    @property
    def scales(self) -> Tensor:
        """As stored now, float16 ``[rows]``."""
        return self._weight.tensors["scales"]

    def settle(self) -> None:
        """Round the scales as they are stored, after ``factors`` have changed."""
        scales = (self._scales * self.factors.detach()).clamp(-_LARGEST, _LARGEST)
        self.scales.copy_(scales)

    @contextmanager
    def dense(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The dense weight, to be used inside: backward decodes it again instead of keeping it."""
        entries = None if self._set is None else self._set.entries
        matrix = _Decoded.apply(self.factors, entries, self, dtype)
        storage = matrix.untyped_storage().data_ptr()

        def pack(tensor: Tensor) -> Any:
            own = tensor.untyped_storage().data_ptr() == storage
            return (tensor.size(), tensor.stride(), tensor.storage_offset()) if own else tensor

        def unpack(packed: Any) -> Tensor:
            return packed if isinstance(packed, Tensor) else self._matrix(dtype).as_strided(*packed)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield from_matrix(matrix, self._weight.shape)

    def learn(self, gradient: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients of ``factors`` and of the set's entries; both arguments are ``[rows, columns]``."""
        gradient = gradient.float()
        slopes = (gradient * matrix).sum(1) / self.factors.detach()
        if self._set is None and not self.following:
            return slopes, None
        coded = self.weight.coded()
        if not isinstance(coded, kernels.Int8) and coded.rotation is not None:
            gradient = kernels.rotate(gradient, coded.rotation, coded.period)
        gradient = gradient * self.scales.float()[:, None]
        entries = None if self._set is None else self._set.slopes(gradient, self.codes)
        if self.following:
            self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)
        return slopes, entries

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        return kernels.decode(self.weight.coded(), dtype)


class _Decoded(torch.autograd.Function):
    """The dense matrix; gradients go to the object that it was decoded from."""

    @staticmethod
    def forward(
        ctx: Any,
        factors: Tensor,
        entries: Tensor | None,
        learned: LearnedWeight,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.learned, ctx.dtype = learned, dtype
        return learned._matrix(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        learned = ctx.learned
        return *learned.learn(gradient, learned._matrix(torch.float32)), None, None
