"""Viterbi search for trellis codes: the path through a shift register that lies nearest to a row.

A state is a window of ``L`` bits of the row's stream, and stands for the entry of a table. From one
weight to the next the window moves by ``k`` bits, so that each state has ``2^k`` predecessors
(trellis-coded quantization, Marcellin and Fischer 1990; with a bit shift for a trellis QTIP, arXiv
2406.11235, section 3). The stream closes to a ring: the window of the last weights goes on at the
row's beginning, and nothing but ``k`` bits per weight is stored.

The search runs from the last weight to the first. Predecessors in it are successors in the row,
which differ in the high bits of the state, so that the minimum over them is one over whole slices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels

GROUP = 8
"""Weights whose bits fill whole bytes."""

_AROUND = 64
"""Weights on either side of a row's end from which the states there are found."""
_CPU_METRICS, _METRICS = 1 << 19, 1 << 26
"""States whose costs are held at a time: enough that calls of operators do not count, and that stay in a CPU's
cache; or as many as keep a card busy."""
_CPU_BYTES, _BYTES = 1 << 28, 1 << 30
"""Memory of a thread, or of a card, for the steps back: a byte for each branch."""


def search(unit: Tensor, table: Tensor, bits: int) -> Tensor:
    """Codes that minimize ``sum_j (x_nj - table[window_nj])^2`` for each row n.

    That is exact but for where the ring closes: the states there are those of the best path
    through the weights around it.

    Args:
        unit: x, float32 ``[rows, columns]``, columns in a multiple of 8.
        table: float32 ``[2^L]``.
        bits: k, by which the window moves.

    Returns:
        uint8 ``[rows, columns / 8, k]``: the stream's bytes, see ``kernels.coded.Trellis``.
    """
    rows, columns = unit.shape
    codes, most = [], rows_at_once(unit.device, columns, len(table), len(table) >> bits)
    parts = max(1, -(-rows // most))
    for part in unit.split(max(1, -(-rows // parts))):  # parts of one size
        weights = part.flip(1).T.contiguous()
        ring = joint(weights, table, bits)
        states = kernels.best_path(weights, table, bits, ring, ring).long().T.flip(1)
        codes.append(packed(states & ((1 << bits) - 1), bits))
    return torch.cat(codes) if codes else unit.new_empty((rows, columns // 8, bits)).byte()


def joint(weights: Tensor, table: Tensor, bits: int) -> Tensor:
    """By what paths overlap with themselves where they close to a ring, ``[rows]``.

    That of the best path through the weights around, which are given as for ``kernels.best_path``.
    """
    around = min(_AROUND, len(weights) // 2)
    near = torch.cat((weights[-around:], weights[:around]))
    return kernels.best_path(near, table, bits)[around] >> bits


def rows_at_once(device: torch.device, columns: int, states: int, branches: int) -> int:
    """How many rows to search together."""
    on_cpu = device.type == "cpu"
    metrics, nbytes = (_CPU_METRICS, _CPU_BYTES) if on_cpu else (_METRICS, _BYTES)
    return max(1, min(metrics // states, nbytes // (columns * branches)))


def packed(digits: Tensor, bits: int) -> Tensor:
    """Bytes of k-bit digits ``[rows, columns]``, the first lowest: uint8 ``[rows, columns / 8, k]``."""
    shifts = torch.arange(GROUP, device=digits.device) * bits
    words = (digits.view(len(digits), -1, GROUP) << shifts).sum(2, keepdim=True)
    return (words >> (torch.arange(bits, device=digits.device) * 8)).to(torch.uint8)
