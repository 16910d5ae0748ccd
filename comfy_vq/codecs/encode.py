"""The one entry to encoding: checks a weight, then hands it to a codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import VQError
from ..finite import is_finite
from . import registry
from .encoder import EFFORTS
from .registry import OnProgress
from .weight import VQWeight, matrix_shape, to_matrix


def encode(
    weight: Tensor,
    bits: int = 3,
    codec: str = "additive",
    effort: str = "balanced",
    importance: Tensor | None = None,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> VQWeight:
    """Code a weight on the device that it is on.

    Args:
        weight: floating point, ``[out, in]``, or ``[out, in, *kernel]`` of a convolution.
        bits: bits per weight of the codes: 1 to 6 for ``additive`` (its M), 8 for ``int8``.
        codec: a name from ``codecs.names()``.
        effort: ``fast``, ``balanced`` or ``best``.
        importance: non-negative weight of each input column, ``[in]`` or ``[in, *kernel]``; the
            encoder minimizes ``sum importance * (weight - decoded)^2``. None for ones.
        seed: of the rotation's signs and of sampling; the same seed gives the same result.
        on_progress: called with the number of weights coded since the last call, at least every
            half second; may raise to interrupt.
        options: of the codec. ``additive``: ``rotation`` (a ``Rotation``, None or "auto"),
            ``codebooks`` (a ``CodebookSet`` instead of the shipped one), ``own_codebooks``
            (whether to train a set on this weight; "auto": at effort ``best``, where it pays) and
            ``unbiased`` (row scales that shrink nothing, for layers of a network, instead of those
            of least squared error; see ``scales.unbiased_scales``).

    Returns:
        A VQWeight whose pieces are on the weight's device.

    Raises:
        VQError: unknown codec or effort; a weight that is empty, not finite, of the wrong rank,
            of a width that the codec does not take, or outside half-precision scales; an
            importance of the wrong shape or with negative or non-finite values.
    """
    chosen = registry.get(codec)
    if effort not in EFFORTS:
        raise VQError(f"unknown effort {effort!r}: choose one of {', '.join(EFFORTS)}")
    shape = tuple(weight.shape)
    if not weight.is_floating_point():
        raise VQError(f"found a weight of dtype {weight.dtype}, expected floating point")
    if not chosen.supports(shape):
        raise VQError(
            f"found a weight of shape {list(shape)}, which codec {codec!r} does not take; expected "
            "[out, in] or [out, in, *kernel], nowhere 0 (additive: in a multiple of 8); leave this "
            "layer dense"
        )
    if weight.dtype.itemsize == 1:  # float8 has no arithmetic of its own
        weight = weight.half()
    if not is_finite(weight):
        raise VQError("found NaN or Inf in the weight, expected finite values; repair the source")
    columns = None if importance is None else _columns(importance, shape).to(weight.device)
    with torch.no_grad():
        return chosen.encode(
            weight,
            bits=bits,
            effort=effort,
            importance=columns,
            seed=seed,
            on_progress=on_progress,
            **options,
        )


def _columns(importance: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Importance in the column order of the coded matrix, float32 ``[columns]``."""
    per_input, per_tap = (shape[1],), shape[1:]
    if tuple(importance.shape) not in (per_input, per_tap):
        raise VQError(
            f"found an importance of shape {list(importance.shape)}, expected {list(per_input)}"
            + (f" or {list(per_tap)}" if len(shape) > 2 else "")
        )
    importance = importance.detach().float()
    if not bool(torch.isfinite(importance).all()) or bool((importance < 0).any()):
        raise VQError("found negative or non-finite importance, expected values >= 0")
    if not bool((importance > 0).any()):
        raise VQError("found an importance of zero everywhere, expected some positive value")
    importance = importance / importance.mean()
    if importance.ndim == 1:
        importance = importance.view(-1, *[1] * (len(shape) - 2)).expand(per_tap)
    columns = to_matrix(importance[None])[0]
    return columns.reshape(matrix_shape(shape)[1])
