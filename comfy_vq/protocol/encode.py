"""How VQDM codes one layer: Adam on what is continuous and beam search on codes, in turns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codecs import beam
from ..codecs.codebooks import ENTRIES, GROUP, residual_kmeans
from ..codecs.weight import to_matrix
from ..errors import VQError
from .sweep import sweep
from .weight import SummedWeight, summed

_TINY = 1e-9
_BETAS = (0.0, 0.95)


@dataclass(frozen=True)
class Encoding:
    """How to code a layer; the numbers are VQDM's.

    Attributes:
        books: M, codebooks of 256 entries; also the bits per weight of the codes.
        kmeans_steps: of each codebook at the start.
        adam_steps: between two sweeps.
        rate: of Adam.
        beam: rows kept of each row in a sweep.
        tolerance: a round of Adam and sweep that gains less than this share of the error is the last.
        rounds: at most.
    """

    books: int = 3
    kmeans_steps: int = 100
    adam_steps: int = 100
    rate: float = 1e-4
    beam: int = 8
    tolerance: float = 0.01
    rounds: int = 1000


@dataclass(frozen=True)
class Coded:
    """A layer and how it came about.

    Attributes:
        error: of the layer's output, relative to the power of that output.
        rounds: of Adam and sweep.
    """

    weight: SummedWeight
    error: float
    rounds: int


def encode(
    weight: Tensor,
    moments: Tensor,
    how: Encoding,
    generator: torch.Generator,
    on_round: Callable[[int, float], object] = lambda number, error: None,
) -> Coded:
    """Code a weight for inputs of given second moments.

    Args:
        weight: ``[out, in, ...]``; 8 divides ``in``.
        moments: ``E[x x^T]``, float32 ``[columns, columns]``.
        generator: on the CPU.
        on_round: told the number of rounds and the relative error after each.

    Raises:
        VQError: the layer has fewer than 256 groups, or its inputs were zero.
    """
    matrix, moments = to_matrix(weight).float(), moments.to(weight.device)
    if matrix.numel() < ENTRIES * GROUP:
        raise VQError(
            f"found a weight of shape {list(weight.shape)}, expected at least {ENTRIES} groups of {GROUP}"
        )
    power = float((matrix @ moments * matrix).sum()) / len(matrix)
    if power <= 0:
        raise VQError("found inputs that are all zero, expected some to code the layer for")
    scales = matrix.norm(dim=1).add_(_TINY)
    groups = (matrix / scales[:, None]).view(-1, GROUP)
    books = residual_kmeans(groups, how.books, how.kmeans_steps, generator)
    codes = beam.search(groups, books, 1)[0].view(len(matrix), -1, how.books)
    learned = [tensor.requires_grad_(True) for tensor in (books, scales)]
    adam = torch.optim.Adam(learned, lr=how.rate, betas=_BETAS, amsgrad=True)
    best, number = float("inf"), 0
    while True:
        before = _error(matrix, moments, codes, books, scales)
        if number and before > (1 - how.tolerance) * best or number == how.rounds:
            break
        best = min(best, before)
        for _ in range(how.adam_steps):
            _step(adam, matrix, moments, codes, books, scales)
        fixed = books.detach(), scales.detach()
        codes = sweep(matrix, moments, codes, *fixed, how.beam, generator)
        number += 1
        on_round(number, _error(matrix, moments, codes, *fixed) / power)
    coded = SummedWeight(tuple(weight.shape), codes, books, scales).stored()
    error = _error(matrix, moments, codes, coded.codebooks, coded.scales)
    return Coded(coded, error / power, number)


@torch.no_grad()
def _error(matrix: Tensor, moments: Tensor, codes: Tensor, books: Tensor, scales: Tensor) -> float:
    """Of the layer's output, a mean over rows and inputs."""
    error = summed(codes, books, scales) - matrix
    return float((error @ moments * error).sum()) / len(matrix)


def _step(
    adam: torch.optim.Optimizer,
    matrix: Tensor,
    moments: Tensor,
    codes: Tensor,
    books: Tensor,
    scales: Tensor,
) -> None:
    """One step down ``_error``, whose gradient is ``2 e H``, so that one product suffices."""
    adam.zero_grad()
    with torch.enable_grad():
        error = summed(codes, books, scales) - matrix
        slope = 2 * (error.detach() @ moments) / len(matrix)
        error.backward(slope)
    adam.step()
