"""Which implementation decodes here.

Every operation has a list of implementations, best first; each says for a device whether it runs
there, and if not, why. The last one is eager PyTorch, which runs everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import eager
from .hadamard import Rotation


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operation.

    Attributes:
        name: for logs.
        run: the function, with the signature of the operation.
        refusal: why it does not run on a device, or None where it does.
    """

    name: str
    run: Callable[..., Tensor]
    refusal: Callable[[torch.device], str | None]


def _anywhere(device: torch.device) -> str | None:
    return None


_KERNELS: dict[str, list[Kernel]] = {
    "decode_additive": [Kernel("eager", eager.decode_additive, _anywhere)],
    "decode_int8": [Kernel("eager", eager.decode_int8, _anywhere)],
}


def _choose(operation: str, device: torch.device) -> Kernel:
    return next(k for k in _KERNELS[operation] if k.refusal(device) is None)


def explain(operation: str, device: torch.device) -> str:
    """One line: which implementation of ``operation`` runs on ``device``, and why others do not."""
    refused = [f"{k.name}: {why}" for k in _KERNELS[operation] if (why := k.refusal(device))]
    return f"{operation} on {device}: {_choose(operation, device).name}" + "".join(
        f"; not {line}" for line in refused
    )


def decode_additive(
    codes: Tensor,
    codebooks: Tensor,
    step: float,
    offset: int,
    scales: Tensor,
    rotation: Rotation | None,
    period: int,
    dtype: torch.dtype,
) -> Tensor:
    """Decode additive codes to a matrix ``[rows, width]`` of ``dtype``, on the codes' device.

    ``weight[n, 8g:8g+8] = scales[n] * step * (sum over m of codebooks[m, codes[n, g, m]] - offset)``,
    then the inverse rotation. The arithmetic is float32 with one rounding per weight before the
    final cast.

    Args:
        codes: uint8 ``[rows, groups, M]``.
        codebooks: uint8 ``[M, 256, 8]``.
        step, offset: the grid of the set.
        scales: float ``[rows]``.
        rotation: undone on the result; None where the weight was coded as it is.
        period: input width, after which the signs of the rotation repeat (each tap of a
            convolution is rotated alike).
        dtype: floating dtype of the result.
    """
    kernel = _choose("decode_additive", codes.device)
    return kernel.run(codes, codebooks, step, offset, scales, rotation, period, dtype)


def decode_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Decode int8 rows: ``codes [rows, width] * scales [rows] / 128`` in float32, cast to ``dtype``."""
    return _choose("decode_int8", codes.device).run(codes, scales, dtype)
