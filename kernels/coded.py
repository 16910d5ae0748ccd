"""Coded weights as the kernels take them."""

from typing import NamedTuple

from torch import Tensor

from .hadamard import Rotation


class Additive(NamedTuple):
    """A matrix ``[rows, 8 * groups]`` in additive codes.

    ``weight[n, 8g:8g+8] = scales[n] * step * (sum over m of codebooks[m, codes[n, g, m]] - offset)``,
    then the inverse rotation.

    Attributes:
        codes: uint8 ``[rows, groups, M]``.
        codebooks: uint8 ``[M, 256, 8]``.
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
        """What turns an unnormalized inverse rotation of sums into the matrix, but for the scales."""
        return self.step if self.rotation is None else self.step * self.rotation.block**-0.5


class Int8(NamedTuple):
    """A matrix ``codes [rows, width] * scales [rows] / 128``, int8 codes and float scales."""

    codes: Tensor
    scales: Tensor


Coded = Additive | Int8
