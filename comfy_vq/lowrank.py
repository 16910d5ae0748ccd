"""Low-rank additions to a weight, run beside it: ``(W + U D) x = W x + U (D x)``.

The weight stays as it is, coded; the addition costs two thin products and loses nothing. See *LoRA*
(arXiv 2106.09685), section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LowRank:
    """One addition ``scale * up @ down`` to a weight, or to some of its rows or columns.

    Attributes:
        up: ``[rows, rank]``, or more dimensions of size 1.
        down: ``[rank, columns]`` or ``[rank, in, kh, kw]``.
        scale: a factor.
        middle: None, or ``[rank, rank, kh, kw]`` with which ``down``, ``[rank, in, 1, 1]``, is convolved
            first (the Tucker form of a convolution's adapter).
        rows, columns: of the weight seen as a matrix, that it is added to.
    """

    up: Tensor
    down: Tensor
    scale: float
    middle: Tensor | None
    rows: slice
    columns: slice

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def factors(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """``[rows, rank]``, with the scale in it, and ``[rank, columns]``."""
        # Multiplied in single precision: products of small halves vanish.
        exact = torch.float32 if dtype.itemsize < 4 else dtype
        up = self.up.to(device).flatten(1).to(exact) * self.scale
        down = self.down.to(device)
        if self.middle is not None:
            middle = self.middle.to(device, exact)
            down = torch.einsum("ri,arhw->aihw", down.flatten(1).to(exact), middle)
        return up.to(dtype), down.flatten(1).to(dtype)


class Beside:
    """The sum of low-rank additions to one weight, as one pair of thin matrices.

    Args:
        parts: what is added; at least one.
        shape: of the weight, ``[out, in]`` or ``[out, in, kh, kw]``.
    """

    def __init__(self, parts: Sequence[LowRank], shape: Sequence[int]) -> None:
        self._parts = tuple(parts)
        self._shape = tuple(shape)
        self._kept: tuple[Tensor, Tensor] | None = None
        self.rank = sum(part.rank for part in parts)

    @property
    def numel(self) -> int:
        """Elements of both matrices."""
        return self.rank * (self._shape[0] + torch.Size(self._shape[1:]).numel())

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return 0 if self._kept is None else sum(factor.nbytes for factor in self._kept)

    def pays(self) -> bool:
        """Whether the thin products multiply less than the weight itself does."""
        return self.numel <= torch.Size(self._shape).numel()

    def keep(self, dtype: torch.dtype, device: torch.device) -> None:
        """Hold the matrices ready on a device."""
        kept = self._kept
        if kept is None or (kept[0].dtype, kept[0].device) != (dtype, device):
            with torch.inference_mode(False), torch.no_grad():
                self._kept = self._merged(dtype, device)

    def forget(self) -> None:
        """Give their memory back; from now on they are made when they are needed."""
        self._kept = None

    def factors(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """Up ``[out, rank]`` and down ``[rank, in]`` or ``[rank, in, kh, kw]``."""
        if self._kept is None:
            return self._merged(dtype, device)
        up, down = self._kept
        return up.to(device, dtype), down.to(device, dtype)

    def add_linear(self, output: Tensor, input: Tensor) -> Tensor:
        """``output + input @ (up @ down).T``; ``output`` ``[..., out]`` may be written over."""
        up, down = self.factors(input.dtype, input.device)
        inner = F.linear(input, down)
        if output.ndim < 2 or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return output + F.linear(inner, up)
        flat = output.flatten(0, -2)
        return flat.addmm_(inner.flatten(0, -2), up.t()).view(output.shape)

    def add_convolution(
        self,
        output: Tensor,
        input: Tensor,
        convolve: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        """``output`` plus the addition's convolution of ``input``.

        Args:
            convolve: a convolution's function of input, weight and bias, of one group.
        """
        up, down = self.factors(input.dtype, input.device)
        inner = convolve(input, down, None)
        return output + F.linear(inner.movedim(1, -1), up).movedim(-1, 1)

    def _merged(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """All parts beside each other, each in its rows and columns and zero elsewhere."""
        rows, columns = self._shape[0], torch.Size(self._shape[1:]).numel()
        pairs = [part.factors(dtype, device) for part in self._parts]
        up, down = pairs[0]
        if len(pairs) > 1 or (up.shape[0], down.shape[1]) != (rows, columns):
            up = torch.zeros((rows, self.rank), dtype=dtype, device=device)
            down = torch.zeros((self.rank, columns), dtype=dtype, device=device)
            at = 0
            for part, (own_up, own_down) in zip(self._parts, pairs, strict=True):
                inner = slice(at, at + part.rank)
                up[part.rows, inner] = own_up
                down[inner, part.columns] = own_down
                at += part.rank
        return up, down.reshape(self.rank, *self._shape[1:])
