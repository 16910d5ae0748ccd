"""Coded weights as the kernels take them."""

from typing import NamedTuple

from torch import Tensor

from .hadamard import Rotation


class OnGrid(NamedTuple):
    """A matrix ``[rows, 8 * groups]`` of whole numbers times the factor of their row.

    ``weight[n, j] = scales[n] * step * (number[n, j] - offset)``, then the inverse rotation. What the
    numbers are, the kinds of such matrices say.

    Attributes:
        codes: uint8 ``[rows, groups, bits]``; as many bytes for 8 weights as bits for one.
        codebooks: uint8 ``[M, entries, weights]``.
        step, offset: the grid of the set.
        scales: float ``[rows]``.
        rotation: undone on the decoded matrix; None where the weight was coded as it is.
        period: input width, after which the signs of the rotation repeat (each tap of a
            convolution is rotated alike).
    """

    codes: Tensor
    codebooks: Tensor
    step: float
    offset: int
    scales: Tensor
    rotation: Rotation | None
    period: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.codes.shape[0], self.codes.shape[1] * 8

    @property
    def block(self) -> int:
        """Order of the rotation, 0 without one."""
        return 0 if self.rotation is None else self.rotation.block

    @property
    def norm(self) -> float:
        """What turns an unnormalized inverse rotation of numbers into the matrix, but for the scales."""
        return self.step if self.rotation is None else self.step * self.rotation.block**-0.5


class Additive(OnGrid):
    """``number[n, 8g:8g+8]`` is the sum over m of ``codebooks[m, codes[n, g, m]]``.

    The codebooks are ``[M, 256, 8]``.
    """


class Trellis(OnGrid):
    """``number[n, j]`` is the entry of ``codebooks [1, 2^L, 1]`` that a window of the row's bits names.

    The stream of a row is all of its codes, the lowest bit of a byte first, and then again from the
    beginning. With k bits per weight the window of weight j is the L bits from bit ``k j`` on, the
    first of them the lowest.
    """

    @property
    def window(self) -> int:
        """L."""
        return self.codebooks.shape[1].bit_length() - 1


class Int8(NamedTuple):
    """A matrix ``codes [rows, width] * scales [rows] / 128``, int8 codes and float scales."""

    codes: Tensor
    scales: Tensor


Coded = Additive | Trellis | Int8
