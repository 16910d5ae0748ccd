"""The one entry to encoding: checks a weight, then hands it to a codec."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import VQError
from ..finite import is_finite
from . import registry
from .codebooks import GROUP
from .encoder import EFFORTS
from .registry import OnProgress
from .weight import VQWeight, matrix_shape


def encode(
    weight: Tensor,
    bits: int = 3,
    codec: str = "additive",
    effort: str = "balanced",
    *,
    moments: Tensor | None = None,
    seed: int = 0,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> VQWeight:
    """Code a weight on the device that it is on.

    Args:
        weight: floating point, ``[out, in]``, or ``[out, in, *kernel]`` of a convolution.
        bits: bits per weight of the codes: 1 to 6 for ``additive`` (its M), 2 to 5 for ``trellis``,
            8 for ``int8``.
        codec: a name from ``codecs.names()``.
        effort: ``fast``, ``balanced`` or ``best``.
        moments: second moments of the layer's input, float32
            ``[blocks, width, width]``, see ``calibration.Moments.mean``. The encoder minimizes the
            squared error of the layer's output, with feedback of errors; see ``feedback``.
        seed: of the rotation's signs and of sampling; the same seed gives the same result.
        on_progress: called with the number of weights coded since the last call, every half second
            or so; may raise to interrupt.
        options: of the codec. ``additive`` and ``trellis``: ``rotation`` (a ``Rotation``, None or
            "auto") and ``unbiased`` (row scales that shrink nothing, for layers of a network,
            instead of those of least squared error; see ``scales.unbiased_scales``). ``additive``:
            ``codebooks`` (a ``CodebookSet`` instead of the shipped one) and ``own_codebooks``
            (whether to train a set on this weight; "auto": at effort ``best``, where it pays).

    Returns:
        A VQWeight whose pieces are on the weight's device.

    Raises:
        VQError: unknown codec or effort; a weight that is empty, not finite, of the wrong rank,
            of a width that the codec does not take, or outside half-precision scales; an
            moments of the wrong shape, or with values that cannot be.
        torch.linalg.LinAlgError: moments that are of no input.
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
            "[out, in] or [out, in, *kernel], nowhere 0 (but for int8: in a multiple of 8); "
            "leave this layer dense"
        )
    if weight.dtype.itemsize == 1:  # float8 has no arithmetic of its own
        weight = weight.half()
    if not is_finite(weight):
        raise VQError("found NaN or Inf in the weight, expected finite values; repair the source")
    if moments is not None:
        moments = _checked(moments, shape).to(weight.device)
    with torch.no_grad():
        return chosen.encode(
            weight,
            bits=bits,
            effort=effort,
            moments=moments,
            seed=seed,
            on_progress=on_progress,
            **options,
        )


def _checked(moments: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Moments that are some of a weight of ``shape``, float32."""
    columns = matrix_shape(shape)[1]
    size = tuple(moments.shape)
    square = len(size) == 3 and size[1] == size[2] and 0 not in size
    if not square or columns % (size[0] * size[1]) or shape[1] % size[1] or size[1] % GROUP:
        raise VQError(
            f"found moments of shape {list(size)}, expected blocks [n, width, width] that make up "
            f"{columns} columns, of a width that divides {shape[1]}"
        )
    if not is_finite(moments) or not bool((moments.diagonal(dim1=1, dim2=2) > 0).any()):
        raise VQError("found moments that are not finite, or zero; calibrate again")
    return moments.detach().float()
