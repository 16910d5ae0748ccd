"""Codebook sets: the shipped ones, and training one from groups of weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import VQError
from . import beam
from .weight import CodebookSet

ENTRIES = 256
GROUP = 8
OFFSET = 128
"""The sum that stands for zero: then sum - offset is a signed byte."""

OWN = "own"
"""Name of a set that was trained on one layer, until a model names it after the layer."""

_SHIPPED = Path(__file__).with_name("gaussian.safetensors")
_TRELLIS = Path(__file__).with_name("trellis.safetensors")


@cache
def _shipped_sets(path: Path) -> dict[str, CodebookSet]:
    if not path.exists():  # while they are being trained
        return {}
    sets = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            if not name.endswith(".grid"):
                codebooks, grid = file.get_tensor(name), file.get_tensor(f"{name}.grid")
                sets[name] = CodebookSet.from_grid(name, codebooks, grid)
    return sets


@cache
def gaussian_sqnr_db() -> dict[tuple[str, int], float]:
    """SQNR in dB on held-out i.i.d. Gaussian weights, by codec and bits.

    Measured by the scripts that train the shipped sets and stored beside them.
    """
    found = {}
    for path in (_SHIPPED, _TRELLIS):
        if path.exists():
            with safe_open(path, "pt") as file:
                measured = file.metadata()
            keys = (key.split() for key in measured if key != "format")
            found |= {
                (codec, int(bits)): float(measured[f"{codec} {bits}"]) for codec, bits in keys
            }
    return found


def shipped_set(books: int) -> CodebookSet:
    """The set of ``books`` codebooks that every rotated, row-normalized weight shares.

    Raises:
        VQError: no set of that many codebooks is shipped.
    """
    sets = _shipped(_SHIPPED)
    if f"gaussian-M{books}" not in sets:
        raise VQError(f"additive codes have 1 to {len(sets)} bits per weight, not {books}")
    return sets[f"gaussian-M{books}"]


def shipped_table(bits: int, window: int) -> CodebookSet:
    """The table of ``2^window`` values of a trellis that spends ``bits`` per weight.

    Raises:
        VQError: no such table is shipped.
    """
    return _shipped(_TRELLIS)[table_name(bits, window)]


def table_name(bits: int, window: int) -> str:
    """Name of a shipped table."""
    return f"gaussian-K{bits}-L{window}"


def _shipped(path: Path) -> dict[str, CodebookSet]:
    sets = _shipped_sets(path)
    if not sets:
        raise VQError(f"{path}: the shipped codebook sets are missing; reinstall comfy-vq")
    return sets


def train(
    groups: Tensor,
    values: Tensor,
    *,
    rounds: int,
    beam_width: int,
    every_round: Callable[[], None] | None = None,
) -> CodebookSet:
    """Alternate beam search and least-squares codebooks, on the integer grid throughout.

    Args:
        groups: training data, float32 ``[n, 8]``, rows normalized as the encoder does.
        values: initial real-valued codebooks, float32 ``[M, 256, 8]``.
        rounds: of {encode, refit, round to the grid}; the best round is kept.
        beam_width: of the searches.
        every_round: called before each; may raise to interrupt.

    Returns:
        The set of the smallest training error, named ``OWN``.
    """
    best, least = to_grid(OWN, values), float("inf")
    for round_ in range(rounds + 1):
        if every_round is not None:
            every_round()
        candidate = to_grid(OWN, values)
        codes, errors = beam.search(groups, candidate.values(), beam_width)
        error = float(errors.double().sum())
        if error < least:
            best, least = candidate, error
        if round_ < rounds:
            values = refit(groups, codes, values)
    return best


def residual_kmeans(
    groups: Tensor, books: int, iterations: int, generator: torch.Generator
) -> Tensor:
    """Initial codebooks: k-means on what the codebooks before it leave over.

    Returns:
        float32 ``[books, 256, 8]``.
    """
    residual, tables = groups, []
    for _ in range(books):
        start = torch.randperm(len(residual), generator=generator)[:ENTRIES]
        table = residual[start.to(groups.device)]
        for _ in range(iterations):
            codes, _errors = beam.search(residual, table[None], 1)
            table = refit(residual, codes, table[None])[0]
        codes, _errors = beam.search(residual, table[None], 1)
        residual = residual - table[codes[:, 0].long()]
        tables.append(table)
    return torch.stack(tables)


def refit(groups: Tensor, codes: Tensor, values: Tensor) -> Tensor:
    """Least-squares codebooks for fixed codes: argmin_C sum_n ||x_n - sum_m C_m[code_nm]||^2.

    A ridge towards the present codebooks keeps entries that no group uses, and settles the
    constants that codebooks could trade among each other (AQLM, section 3.3).
    """
    books, entries, width = values.shape
    flat = codes.long() + torch.arange(books, device=codes.device) * entries
    size = books * entries
    gram = torch.zeros(size, size, dtype=torch.float64, device=groups.device)
    for i in range(books):
        for j in range(books):
            pairs = (flat[:, i] - i * entries) * entries + (flat[:, j] - j * entries)
            counts = torch.bincount(pairs, minlength=entries * entries).view(entries, entries)
            gram[i * entries : (i + 1) * entries, j * entries : (j + 1) * entries] = counts
    residual = groups - values.reshape(size, width)[flat].sum(1)
    target = torch.zeros(size, width, dtype=torch.float64, device=groups.device)
    for i in range(books):
        target.index_add_(0, flat[:, i], residual.double())
    gram.diagonal().add_(1e-3 * len(groups) / entries)
    change = torch.linalg.solve(gram, target)
    return values + change.view_as(values).float()


def to_grid(name: str, values: Tensor) -> CodebookSet:
    """Round real-valued codebooks to uint8 entries on one grid with offset 128.

    The step is the smallest at which every sum of entries is a byte: -128 <= sum - 128 <= 127.
    """
    books = len(values)
    low, high = values.amin((1, 2)), values.amax((1, 2))
    # the zero points are whole numbers: half a step for rounding, one for the ceiling, per book
    step = float(
        torch.maximum(-low.sum() / (OFFSET - 1.5 * books), high.sum() / (127 - 0.5 * books))
    )
    step = float(torch.tensor(step, dtype=torch.float32))
    entries = torch.round(values / step)
    zeros = -entries.amin((1, 2))
    zeros[0] = OFFSET - zeros[1:].sum()
    entries = entries + zeros[:, None, None]
    if entries.min() < 0 or entries.amax((1, 2)).sum() > 255:
        raise AssertionError("the grid step does not keep sums of entries within a byte")
    return CodebookSet(name, entries.to(torch.uint8), step, OFFSET)
