"""Several weights decoded at once, where that saves launches."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import dispatch, triton_ready
from .constraints import Case
from .hadamard import Rotation
from .tables import sums_are_bytes


class Additive(NamedTuple):
    """A weight to decode into ``out``; arguments of ``dispatch.decode_additive``."""

    codes: Tensor
    codebooks: Tensor
    step: float
    offset: int
    scales: Tensor
    rotation: Rotation | None
    period: int
    out: Tensor


class Int8(NamedTuple):
    """A weight to decode into ``out``; arguments of ``dispatch.decode_int8``."""

    codes: Tensor
    scales: Tensor
    out: Tensor


Decoding = Additive | Int8


@lru_cache(maxsize=64)
def decodes_in_batches(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether one launch may decode several weights there."""
    case = Case(device, dtype, 3, 128)
    return device.type == "cuda" and triton_ready.batch_refusal(case, True) is None


def batches(decodings: Sequence[Decoding]) -> list[Callable[[], object]]:
    """Functions that decode all of them: one for those of each kind, one for any other weight.

    They hold what they read and write, which must stay where it is.
    """
    kinds: dict[_Kind, list[Additive]] = {}
    launches: list[Callable[[], object]] = []
    for item in decodings:
        kind = None if isinstance(item, Int8) else _kind(item)
        if isinstance(item, Int8) or kind is None:
            launches.append(_single(item))
        else:
            kinds.setdefault(kind, []).append(item)
    for (_, byte_sums, _), items in kinds.items():
        launches.append(triton_ready.batch(items, byte_sums))
    return launches


_Kind = tuple[Case, bool, torch.dtype]
"""The case, whether sums of entries are bytes, and the type of the scales."""


def _kind(item: Additive) -> _Kind | None:
    """What those have in common that one launch decodes; None for what is decoded by itself."""
    if item.codes.device.type != "cuda" or item.out.numel() >= 1 << 31:
        return None
    read = (item.codes, item.codebooks, item.scales, item.out)
    if any(tensor.data_ptr() % 16 or not tensor.is_contiguous() for tensor in read):
        return None
    block = 0 if item.rotation is None else item.rotation.block
    case = Case(item.codes.device, item.out.dtype, item.codes.shape[-1], block)
    byte_sums = sums_are_bytes(item.codebooks)
    if triton_ready.batch_refusal(case, byte_sums) is not None:
        return None
    return case, byte_sums, item.scales.dtype


def _single(item: Decoding) -> Callable[[], object]:
    decode: Any = dispatch.decode_int8 if isinstance(item, Int8) else dispatch.decode_additive
    return partial(decode, *item[:-1], item.out.dtype, out=item.out)
