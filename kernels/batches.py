"""Several weights decoded at once, where that saves launches."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from . import dispatch, triton_ready
from .coded import Additive, Coded, Trellis
from .constraints import Case
from .tables import sums_are_bytes

Decoding = tuple[Coded, Tensor]
"""A weight, and the contiguous ``[rows, width]`` to decode it into."""


@lru_cache(maxsize=64)
def decodes_in_batches(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether one launch may decode several weights there."""
    if not _on_card(device):
        return False
    cases = (Case(device, dtype, 3, 128, window=window) for window in (0, 12))
    return any(triton_ready.batch_refusal(case, True) is None for case in cases)


def batches(decodings: Sequence[Decoding]) -> list[Callable[[], object]]:
    """Functions that decode all of them: one for those of each kind, one for any other weight.

    They hold what they read and write, which must stay where it is.
    """
    kinds: dict[_Kind, list[tuple[Additive | Trellis, Tensor]]] = {}
    launches: list[Callable[[], object]] = []
    for weight, out in decodings:
        kind = _kind(weight, out) if isinstance(weight, Additive | Trellis) else None
        if not isinstance(weight, Additive | Trellis) or kind is None:
            launches.append(partial(dispatch.decode, weight, out.dtype, out))
        else:
            kinds.setdefault(kind, []).append((weight, out))
    for (_, byte_sums, _), items in kinds.items():
        launches.append(triton_ready.batch(items, byte_sums))
    return launches


def _on_card(device: torch.device) -> bool:
    return device.type == "cuda"


_Kind = tuple[Case, bool, torch.dtype]
"""The case, whether sums of entries are bytes, and the type of the scales."""


def _kind(weight: Additive | Trellis, out: Tensor) -> _Kind | None:
    """What those have in common that one launch decodes; None for what is decoded by itself."""
    if not _on_card(out.device) or out.numel() >= 1 << 31:
        return None
    read = (weight.codes, weight.codebooks, weight.scales, out)
    if any(tensor.data_ptr() % 16 or not tensor.is_contiguous() for tensor in read):
        return None
    window = weight.window if isinstance(weight, Trellis) else 0
    case = Case(out.device, out.dtype, weight.codes.shape[-1], weight.block, window=window)
    byte_sums = sums_are_bytes(weight.codebooks)
    if triton_ready.batch_refusal(case, byte_sums) is not None:
        return None
    return case, byte_sums, weight.scales.dtype
