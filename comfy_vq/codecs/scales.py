"""Row scales: least-squares fit and half-precision storage."""

import torch
from torch import Tensor

from ..errors import VQError


class ScaleRangeError(VQError):
    """The row scales of a weight do not fit half precision; the layer has to stay dense."""


_SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal


def weighted(matrix: Tensor, moments: Tensor | None) -> Tensor:
    """``x H`` for each row x of ``[rows, columns]``.

    Args:
        moments: H; None for the identity, or blocks ``[blocks, width, width]`` on the diagonal, which
            repeat until they fill it.
    """
    if moments is None:
        return matrix
    blocks, width = moments.shape[:2]
    parts = matrix.reshape(-1, blocks, width).transpose(0, 1)
    return torch.bmm(parts, moments).transpose(0, 1).reshape(matrix.shape)


def squared_errors(matrix: Tensor, decoded: Tensor, moments: Tensor | None = None) -> Tensor:
    """``(w_n - q_n) H (w_n - q_n)^T`` for each row n, float32 ``[rows]``.

    Args:
        matrix, decoded: w and q, float32 ``[rows, columns]``.
        moments: H, see ``weighted``.
    """
    error = matrix - decoded
    return (error * weighted(error, moments)).sum(1)


def fit_scales(matrix: Tensor, decoded: Tensor, moments: Tensor | None = None) -> Tensor:
    """The scales ``[rows]`` that minimize ``(w_n - s_n q_n) H (w_n - s_n q_n)^T`` for each row n.

    Args:
        matrix: w, float32 ``[rows, columns]``.
        decoded: q, what the codes stand for at scale 1, of the same shape.
        moments: H, see ``weighted``.

    Returns:
        float32 ``[rows]``; zero where q is zero.
    """
    aimed = weighted(decoded, moments)
    energy = (aimed * decoded).sum(1)
    return torch.where(energy > 0, (aimed * matrix).sum(1) / energy.clamp(min=1e-38), 0.0)


def unbiased_scales(matrix: Tensor, decoded: Tensor, moments: Tensor | None = None) -> Tensor:
    """The scales at which decoding shrinks nothing: ``s_n = <w_n, w_n> / <w_n, q_n>``.

    A least-squares fit leaves ``(1 - d) w`` plus noise, with d the relative error. Within a
    network the noise of layers adds up in power, but what they shrink adds up in amplitude, so
    that a little more noise, d / (1 - d), is the smaller evil (as in DRIVE, arXiv 2105.08339).

    Args, Returns: as ``fit_scales``; rows whose ``<w, q>`` is not positive keep that fit.
    """
    aimed = weighted(matrix, moments)
    overlap = (aimed * decoded).sum(1)
    scales = (aimed * matrix).sum(1) / overlap.clamp(min=1e-38)
    return torch.where(overlap > 0, scales, fit_scales(matrix, decoded, moments))


def half_scales(scales: Tensor) -> Tensor:
    """Scales as they are stored, float16.

    Raises:
        ScaleRangeError: a scale overflows half precision, or most of the weight's energy lies in rows
            whose scale is subnormal there, so that rounding it would cost quality.
    """
    peak = float(scales.abs().max())
    if peak > torch.finfo(torch.float16).max:
        raise ScaleRangeError(
            f"field scales: found a row scale of {peak:.4g}, expected at most 65504 (half "
            "precision); leave this layer dense"
        )
    energy = scales.double().square()
    subnormal = energy[scales.abs() < _SMALLEST_NORMAL].sum()
    if peak > 0 and subnormal > 0.01 * energy.sum():
        raise ScaleRangeError(
            f"field scales: the largest row scale is {peak:.4g}, too small for half precision "
            f"(below {_SMALLEST_NORMAL:.2g}); leave this layer dense"
        )
    return scales.half()
