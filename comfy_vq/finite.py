"""Whether a tensor holds NaN or Inf."""

import math

import torch
from torch import Tensor

_SLICE = 1 << 20


def is_finite(tensor: Tensor) -> bool:
    """Whether all values of a tensor are finite numbers; those of integers are, and are not read.

    Both NaN and Inf show in the extremes, which are found in one pass without a temporary.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    parts = [tensor.detach()]
    if tensor.dtype.itemsize == 1:  # float8 cannot be compared, but fits into half
        parts = (part.half() for part in tensor.detach().reshape(-1).split(_SLICE))
    return all(math.isfinite(extreme) for part in parts for extreme in torch.aminmax(part))
