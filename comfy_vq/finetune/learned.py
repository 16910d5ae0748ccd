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

_LARGEST = torch.finfo(torch.float16).max


class LearnedWeight:
    """Stands in for a coded weight while a network learns.

    The network computes with what would be stored now: half-precision scales and the present codes.
    A gradient of the dense weight becomes one of ``factors`` and, while ``following``, one of the
    numbers that codes stand for.

    Args:
        weight: on the device of the network; its pieces are copied.

    Attributes:
        factors: float32 ``[rows]``, by which the row scales are multiplied; ones at first.
        following: whether gradients for the codes are kept.
        gradient: of these numbers, in units of the row scale and rotated as they are: float32
            ``[rows, columns]``, summed since it was taken last; None where there is none.
    """

    def __init__(self, weight: VQWeight) -> None:
        pieces = {name: tensor.clone() for name, tensor in weight.tensors.items()}
        self.weight = replace(weight, tensors=pieces)
        self.factors = nn.Parameter(torch.ones(weight.shape[0], device=pieces["scales"].device))
        self.following = False
        self.gradient: Tensor | None = None
        self._scales = weight.tensors["scales"].float()

    @property
    def codes(self) -> Tensor:
        return self.weight.tensors["codes"]

    @property
    def scales(self) -> Tensor:
        """As stored now, float16 ``[rows]``."""
        return self.weight.tensors["scales"]

    def settle(self) -> None:
        """Round the scales as they are stored, after ``factors`` have changed."""
        scales = (self._scales * self.factors.detach()).clamp(-_LARGEST, _LARGEST)
        self.scales.copy_(scales)

    @contextmanager
    def dense(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """The dense weight, to be used inside: backward decodes it again instead of keeping it."""
        matrix = _Decoded.apply(self.factors, self, dtype)
        storage = matrix.untyped_storage().data_ptr()

        def pack(tensor: Tensor) -> Any:
            own = tensor.untyped_storage().data_ptr() == storage
            return (tensor.size(), tensor.stride(), tensor.storage_offset()) if own else tensor

        def unpack(packed: Any) -> Tensor:
            return packed if isinstance(packed, Tensor) else self._matrix(dtype).as_strided(*packed)

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield from_matrix(matrix, self.weight.shape)

    def learn(self, gradient: Tensor, matrix: Tensor) -> Tensor:
        """The gradient of ``factors``; both arguments are ``[rows, columns]``."""
        gradient = gradient.float()
        slopes = (gradient * matrix).sum(1) / self.factors.detach()
        if self.following:
            coded = self.weight.coded()
            if not isinstance(coded, kernels.Int8) and coded.rotation is not None:
                gradient = kernels.rotate(gradient, coded.rotation, coded.period)
            gradient = gradient * self.scales.float()[:, None]
            self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)
        return slopes

    def _matrix(self, dtype: torch.dtype) -> Tensor:
        return kernels.decode(self.weight.coded(), dtype)


class _Decoded(torch.autograd.Function):
    """The dense matrix; gradients go to the object that it was decoded from."""

    @staticmethod
    def forward(ctx: Any, factors: Tensor, learned: LearnedWeight, dtype: torch.dtype) -> Tensor:
        ctx.learned, ctx.dtype = learned, dtype
        return learned._matrix(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        learned = ctx.learned
        return learned.learn(gradient, learned._matrix(torch.float32)), None, None
