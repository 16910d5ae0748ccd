"""Which implementation decodes here.

Every operation has a list of implementations, best first; each has constraints, which say for a
case whether it runs, and if not, why. The last one is eager PyTorch, which has none.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import eager, triton_ready
from .constraints import Case, Constraint
from .hadamard import Rotation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """One implementation of an operation.

    Attributes:
        name: for logs.
        run: the function, with the signature of the operation.
        constraints: what it asks for, checked in this order.
    """

    name: str
    run: Callable[..., Tensor]
    constraints: tuple[Constraint, ...] = ()

    def refusal(self, case: Case) -> str | None:
        """Why it does not run in a case, or None where it does."""
        for constraint in self.constraints:
            found = constraint.refusal(case)
            if found is not None:
                return f"needs {constraint}, found {found}"
        return None


_KERNELS: dict[str, list[Kernel]] = {
    "decode_additive": [
        Kernel("triton", triton_ready.decode_additive, triton_ready.ADDITIVE),
        Kernel("eager", eager.decode_additive),
    ],
    "decode_int8": [
        Kernel("triton", triton_ready.decode_int8, triton_ready.INT8),
        Kernel("eager", eager.decode_int8),
    ],
}
_chosen: dict[tuple[str, Case], Kernel] = {}
_told: set[str] = set()


def _choose(operation: str, case: Case) -> Kernel:
    known = _chosen.get((operation, case))
    if known is None or torch.compiler.is_compiling():
        return _first(operation, case)
    return known


def _first(operation: str, case: Case) -> Kernel:
    """The first that does not refuse, which is remembered.

    While torch.compile traces or a CUDA graph is recorded, nothing may be tried: eager runs.
    """
    if torch.compiler.is_compiling() or _records(case.device):
        return _KERNELS[operation][-1]
    kernel = next(k for k in _KERNELS[operation] if k.refusal(case) is None)
    line = explain(operation, case.device, case)
    if case.device.type != "cpu" and line not in _told:
        _told.add(line)
        log.info("VQ: %s", line)
    _chosen[operation, case] = kernel
    return kernel


def _records(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _index_bits(weights: int) -> int:
    return 32 if weights < 1 << 31 else 64


def explain(operation: str, device: torch.device, case: Case | None = None) -> str:
    """One line: which implementation of ``operation`` runs on ``device``, and why others do not.

    Without a case, one of float16, and of 3 codebooks under a rotation of 128 for additive codes.
    """
    if case is None:
        books, block = (3, 128) if operation == "decode_additive" else (0, 0)
        case = Case(device, torch.float16, books, block)
    refused, running = [], ""
    for kernel in _KERNELS[operation]:
        why = kernel.refusal(case)
        if why is None:
            running = kernel.name
            break
        refused.append(f"; not {kernel.name}: {why}")
    return f"{operation} on {device}: {running}" + "".join(refused)


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
    rows, groups, books = codes.shape
    block = 0 if rotation is None else rotation.block
    case = Case(codes.device, dtype, books, block, groups % 4 == 0, _index_bits(rows * groups * 8))
    run = _choose("decode_additive", case).run
    return run(codes, codebooks, step, offset, scales, rotation, period, dtype)


def decode_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Decode int8 rows: ``codes [rows, width] * scales [rows] / 128`` in float32, cast to ``dtype``."""
    case = Case(codes.device, dtype, index_bits=_index_bits(codes.numel()))
    return _choose("decode_int8", case).run(codes, scales, dtype)
