"""Which implementation decodes here, or searches.

Every operation has a list of implementations, best first; each has constraints, which say for a
case whether it runs, and if not, why. The last one is eager PyTorch, which has none.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import cpu, eager, triton_ready, viterbi
from .coded import Additive, Coded, Int8, Trellis
from .constraints import Case, Constraint, OnCPU
from .scratch import is_capturing

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
        Kernel("cpu", cpu.decode_additive, (OnCPU(),)),
        Kernel("eager", eager.decode_additive),
    ],
    "decode_additive_int8": [
        Kernel("triton", triton_ready.decode_additive_int8, triton_ready.ADDITIVE_INT8),
        Kernel("cpu", cpu.decode_additive_int8, (OnCPU(),)),
        Kernel("eager", eager.decode_additive_int8),
    ],
    "decode_trellis": [
        Kernel("triton", triton_ready.decode_trellis, triton_ready.TRELLIS),
        Kernel("cpu", cpu.decode_trellis, (OnCPU(),)),
        Kernel("eager", eager.decode_trellis),
    ],
    "decode_trellis_int8": [
        Kernel("triton", triton_ready.decode_trellis_int8, triton_ready.TRELLIS_INT8),
        Kernel("cpu", cpu.decode_trellis_int8, (OnCPU(),)),
        Kernel("eager", eager.decode_trellis_int8),
    ],
    "decode_int8": [
        Kernel("triton", triton_ready.decode_int8, triton_ready.INT8),
        Kernel("eager", eager.decode_int8),
    ],
    "best_path": [
        Kernel("triton", triton_ready.best_path, triton_ready.SEARCH),
        Kernel("eager", viterbi.best_path),
    ],
}
_USUAL: dict[str, Callable[[torch.device], Case]] = {
    "decode_additive": lambda device: Case(device, torch.float16, 3, 128),
    "decode_additive_int8": lambda device: Case(device, torch.int8, 3),
    "decode_trellis": lambda device: Case(device, torch.float16, 3, 128, window=12),
    "decode_trellis_int8": lambda device: Case(device, torch.int8, 3, window=12),
    "decode_int8": lambda device: Case(device, torch.float16),
    "best_path": lambda device: Case(device, torch.float32, 3, window=12),
}
OPERATIONS = tuple(_USUAL)
_chosen: dict[tuple[str, Case], Kernel] = {}
_told: set[str] = set()


def _choose(operation: str, case: Case) -> Kernel:
    known = _chosen.get((operation, case))
    return _first(operation, case) if known is None else known


def _first(operation: str, case: Case) -> Kernel:
    """The first that does not refuse, which is remembered.

    While a CUDA graph is recorded, nothing may be tried: eager runs.
    """
    if is_capturing(case.device):
        return _KERNELS[operation][-1]
    kernel = next(k for k in _KERNELS[operation] if k.refusal(case) is None)
    line = explain(operation, case.device, case)
    if case.device.type != "cpu" and line not in _told:
        _told.add(line)
        log.info("VQ: %s", line)
    _chosen[operation, case] = kernel
    return kernel


def _index_bits(weights: int) -> int:
    return 32 if weights < 1 << 31 else 64


def explain(operation: str, device: torch.device, case: Case | None = None) -> str:
    """One line: which implementation of ``operation`` runs on ``device``, and why others do not.

    Without a case, for a usual one: float16, 3 bits, a rotation of 128.
    """
    if case is None:
        case = _USUAL[operation](device)
    refused, running = [], ""
    for kernel in _KERNELS[operation]:
        why = kernel.refusal(case)
        if why is None:
            running = kernel.name
            break
        refused.append(f"; not {kernel.name}: {why}")
    return f"{operation} on {device}: {running}" + "".join(refused)


def decode(weight: Coded, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode to a matrix ``[rows, width]`` of ``dtype``, on the codes' device; ``out`` as below."""
    if isinstance(weight, Int8):
        return decode_int8(*weight, dtype, out)
    if isinstance(weight, Trellis):
        return decode_trellis(weight, dtype, out)
    return decode_additive(weight, dtype, out)


def decode_bytes(weight: Additive | Trellis, out: Tensor | None = None) -> Tensor:
    """The whole numbers of a weight less its offset, int8 ``[rows, width]``, not rotated back.

    With ``step`` and the row scales as factors they are the weight in the rotated basis. Less the
    offset they must be signed bytes, as those of every set in a file are.
    """
    run = decode_trellis_int8 if isinstance(weight, Trellis) else decode_additive_int8
    return run(weight.codes, weight.codebooks, weight.offset, out)


def decode_additive(weight: Additive, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode additive codes to a matrix ``[rows, width]`` of ``dtype``, on the codes' device.

    The arithmetic is float32 with one rounding per weight before the final cast.

    Args:
        weight: see ``Additive``.
        dtype: floating dtype of the result.
        out: contiguous ``[rows, width]`` of ``dtype`` to write to and return.
    """
    rows, groups, books = weight.codes.shape
    index_bits = _index_bits(rows * groups * 8)
    case = Case(weight.codes.device, dtype, books, weight.block, index_bits)
    return _choose("decode_additive", case).run(weight, dtype, out=out)


def decode_trellis(weight: Trellis, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """Decode trellis codes; arithmetic and arguments as in ``decode_additive``."""
    rows, groups, bits = weight.codes.shape
    index_bits = _index_bits(rows * groups * 8)
    case = Case(weight.codes.device, dtype, bits, weight.block, index_bits, weight.window)
    return _choose("decode_trellis", case).run(weight, dtype, out=out)


def decode_additive_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """``decode_bytes`` of sums of entries of ``codebooks [M, 256, 8]``."""
    rows, groups, books = codes.shape
    case = Case(codes.device, torch.int8, books, index_bits=_index_bits(rows * groups * 8))
    return _choose("decode_additive_int8", case).run(codes, codebooks, offset, out=out)


def decode_trellis_int8(
    codes: Tensor, codebooks: Tensor, offset: int, out: Tensor | None = None
) -> Tensor:
    """``decode_bytes`` of entries of a table ``codebooks [1, 2^L, 1]``."""
    rows, groups, bits = codes.shape
    window = codebooks.shape[1].bit_length() - 1
    index_bits = _index_bits(rows * groups * 8)
    case = Case(codes.device, torch.int8, bits, index_bits=index_bits, window=window)
    return _choose("decode_trellis_int8", case).run(codes, codebooks, offset, out=out)


def decode_int8(
    codes: Tensor, scales: Tensor, dtype: torch.dtype, out: Tensor | None = None
) -> Tensor:
    """Decode int8 rows: ``codes [rows, width] * scales [rows] / 128`` in float32, cast to ``dtype``."""
    case = Case(codes.device, dtype, index_bits=_index_bits(codes.numel()))
    return _choose("decode_int8", case).run(codes, scales, dtype, out=out)


def best_path(
    weights: Tensor,
    table: Tensor,
    bits: int,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Tensor:
    """The path through a shift register that lies nearest to a row: states ``[steps, rows]``.

    With each step ``bits`` are shifted from below into a state of L bits, which stands for an entry.
    Found is the least ``sum_t (x_tn - table[state_tn])^2`` for each row n, up to rounding.

    Args:
        weights: x, float32 ``[steps, rows]``, at least one of each.
        table: float32 ``[2^L]``.
        bits: k, at most L / 2.
        start, end: whole numbers ``[rows]``; the ``L - k`` high bits of the first state and the low
            ones of the last, where they are given. A path whose both are the same closes to a ring.
    """
    window = len(table).bit_length() - 1
    case = Case(weights.device, weights.dtype, bits, window=window)
    return _choose("best_path", case).run(weights, table, bits, start, end)
