"""Hosts write for sampling: what their networks do in place, gradients cannot pass through."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

_NORMS = {
    F.layer_norm,
    F.group_norm,
    F.rms_norm,
    torch.layer_norm,
    torch.group_norm,
    torch.rms_norm,
}


class NormsKeepCopies(TorchFunctionMode):
    """Within it norms keep copies of their inputs for backward.

    Networks write ``x += f(norm(x))``, which changes what the norm has kept. Backward refuses that, but
    for blocks that are computed again, where it would go on with wrong values.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _NORMS and args and torch.is_grad_enabled() and args[0].requires_grad:
            args = (args[0].clone(), *args[1:])
        return func(*args, **(kwargs or {}))
