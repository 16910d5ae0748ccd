"""The product of activations with a coded weight in int8.

In the basis that it was coded in, a weight is a signed byte times the factor of its row. So
``x W^T = (x D H / block) bytes^T`` times factors, with the rotation ``D H`` moved from the weight to
the activations, whose rows are rounded to bytes on the fly.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import comfy_kitchen
import torch
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor

from .... import kernels
from ....codecs import WIDTHS, AdditiveSpec, Int8Spec, TrellisSpec
from ....kernels.activations import rotate_activations
from ....kernels.scratch import scratch
from .layout import coded

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_ALIGNED = 16  # to which integer products on graphics cards want rows and columns
_OFFSET = 128
_SLICE = 1 << 21
"""Activations whose error is measured at a time: float32 temporaries of 8 MiB."""


def can_multiply(weight: QuantizedTensor) -> bool:
    """Whether a coded weight has a form in bytes that ``linear`` multiplies with."""
    spec, shape = weight.params.spec, weight.params.orig_shape
    if len(shape) != 2 or any(size % _ALIGNED for size in shape):
        return False
    if isinstance(spec, AdditiveSpec | TrellisSpec):
        return weight.params.offset == _OFFSET and _key(spec) in _coding_nmse()
    return isinstance(spec, Int8Spec)


def coding_nmse(weight: QuantizedTensor) -> float:
    """What coding added to the weight, as a share of its power: that of its codec and width."""
    return _coding_nmse()[_key(weight.params.spec)]


def linear(input: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor:
    """``input W^T + bias`` in the dtype of the input, ``[..., out]``.

    Args:
        input: ``[..., in]`` of ``DTYPES``, at least one row.
        weight: one that ``can_multiply``, on the device of the input.
    """
    rows, factors = _bytes(weight)
    x = _turned(input.reshape(-1, input.shape[-1]), weight)
    output = comfy_kitchen.int8_linear(x, rows, factors, bias, out_dtype=input.dtype)
    return output.view(*input.shape[:-1], -1)


def rounding(input: Tensor, weight: QuantizedTensor) -> Tensor:
    """What rounding activations to bytes would cost: float32 ``[2]``, power of error and of signal.

    Signal is by how much the tokens of a picture differ from their mean: what they have in common,
    often a few huge channels, would hide that rounding erases the rest. Both are measured in the
    basis of the weight, against a rotation in float32, so that what a rotation in half precision
    loses counts too. Nothing is read from the device.

    Args:
        input: ``[pictures, ..., in]``, tokens between.
        weight: as for ``linear``.
    """
    x = input.flatten(1, -2)
    means = _turned(x.mean(1, keepdim=True, dtype=torch.float32), weight)
    sums = torch.zeros(2, device=x.device)
    for part in x.split(max(1, _SLICE // means.numel()), dim=1):
        turned = _turned(part, weight)
        rows, scales = comfy_kitchen.quantize_int8_rowwise(turned.flatten(0, 1))
        exact = _turned(part.float(), weight)
        error = torch.addcmul(exact.flatten(0, 1), rows.float(), scales, value=-1)
        sums += torch.stack((error.square().sum(), (exact - means).square().sum()))
    return sums


def _bytes(weight: QuantizedTensor) -> tuple[Tensor, Tensor]:
    """int8 ``[out, in]`` and float32 factors ``[out]``, for activations as ``_turned`` gives them.

    The bytes last until the next weight is decoded.
    """
    params = weight.params
    if isinstance(params.spec, Int8Spec):
        return weight._qdata, params.scale.float() / 128
    rotation = params.spec.rotation
    step = params.step if rotation is None else params.step * rotation.block**0.5
    room = scratch(*params.orig_shape, torch.int8, weight._qdata.device)
    return kernels.decode_bytes(coded(weight).coded(), room), params.scale.float() * step


def _turned(x: Tensor, weight: QuantizedTensor) -> Tensor:
    rotation = getattr(weight.params.spec, "rotation", None)
    return x.contiguous() if rotation is None else rotate_activations(x.contiguous(), rotation)


def _key(spec: Any) -> tuple[str, int]:
    return spec.codec, 8 if isinstance(spec, Int8Spec) else spec.bits


@cache
def _coding_nmse() -> dict[tuple[str, int], float]:
    """On Gaussian weights, which rotated ones nearly are."""
    return {(width.codec, width.bits): 10 ** (-width.sqnr_db / 10) for width in WIDTHS}
