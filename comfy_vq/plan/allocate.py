"""Which option each layer takes: a multiple-choice knapsack with fixed costs.

Minimize the summed noise over one option per layer, such that the bits of all options, plus the
codebook sets that they use, come to a target. In the order of the functions below: Lagrange
relaxation (Shoham and Gersho 1988) settles all layers but a few; those few, the core (Pisinger
1995), are settled by dynamic programming over the remaining bits; and since a set is a fixed cost,
this is done for the subsets of sets that the relaxation's bound does not rule out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np

_CORE = 40
"""Layers that dynamic programming settles."""
_CELLS = 1 << 13
"""Resolution of the bits in dynamic programming; exact sums are carried along."""
_BISECTIONS = 40
_MOST_SUBSETS = 8
"""Subsets of sets that are solved at most, the most promising first."""


@dataclass(frozen=True, eq=False)
class Options:
    """What each of L layers may become, in W ways.

    Attributes:
        bits: float64 ``[L, W]``, bits stored; inf where a layer cannot take the option.
        noise: float64 ``[L, W]``, output noise.
        set_bits: float64 ``[W]``, bits of the set that an option's users share; 0 for none.
    """

    bits: np.ndarray
    noise: np.ndarray
    set_bits: np.ndarray

    def total_bits(self, chosen: np.ndarray) -> float:
        """Bits of an allocation (int ``[L]``), each set that it uses once."""
        layers = self.bits[np.arange(len(chosen)), chosen].sum()
        return float(layers + self.set_bits[np.unique(chosen)].sum())

    def total_noise(self, chosen: np.ndarray) -> float:
        """Summed noise of an allocation."""
        return float(self.noise[np.arange(len(chosen)), chosen].sum())

    def restricted(self, allowed: frozenset[int]) -> Options:
        """The same without the options whose sets are not in ``allowed``."""
        banned = [w for w in np.flatnonzero(self.set_bits) if w not in allowed]
        bits = self.bits.copy()
        bits[:, banned] = np.inf
        return Options(bits, self.noise, self.set_bits)


def reachable(options: Options) -> tuple[float, float]:
    """The fewest and the most bits that any allocation takes."""
    fewest = min(
        float(o.bits.min(1).sum() + o.set_bits[list(s)].sum())
        for s in _subsets(options)
        for o in [options.restricted(s)]
    )
    most = np.where(np.isfinite(options.bits), options.bits, -np.inf).argmax(1)
    return fewest, max(fewest, options.total_bits(most))


def allocate(options: Options, target: float, tolerance: float) -> np.ndarray:
    """The quietest allocation within ``tolerance`` below ``target`` bits, int64 ``[L]``.

    Where there is none below the target, one within ``tolerance`` above it; where there is none
    either, the nearest that was found. Deterministic.
    """
    ranked = []
    for subset in _worthwhile_subsets(options, tolerance):
        allowed = options.restricted(subset)
        budget = target - options.set_bits[list(subset)].sum()
        if allowed.bits.min(1).sum() <= budget + tolerance:
            chosen, price, bound = _relax(allowed, budget)
            ranked.append((bound, len(ranked), allowed, budget, chosen, price))
    if not ranked:
        return options.bits.argmin(1)
    best: np.ndarray | None = None
    for bound, _, allowed, budget, chosen, price in sorted(ranked, key=lambda r: r[:2])[
        :_MOST_SUBSETS
    ]:
        if best is not None and _rank(options, best, target, tolerance) <= (0.0, bound):
            break
        found = _fill(allowed, budget, tolerance, chosen, price)
        if best is None or _rank(options, found, target, tolerance) < _rank(
            options, best, target, tolerance
        ):
            best = found
    assert best is not None
    return best


def _subsets(options: Options) -> list[frozenset[int]]:
    sets = np.flatnonzero(options.set_bits).tolist()
    sizes = (combinations(sets, n) for n in range(len(sets) + 1))
    usable = []
    for subset in chain.from_iterable(sizes):
        if np.isfinite(options.restricted(frozenset(subset)).bits).any(1).all():
            usable.append(frozenset(subset))
    return usable


def _worthwhile_subsets(options: Options, tolerance: float) -> list[frozenset[int]]:
    """All subsets, or only the whole where all sets together hardly cost anything."""
    if options.set_bits.sum() <= tolerance / 10:
        return [frozenset(np.flatnonzero(options.set_bits).tolist())]
    return _subsets(options)


def _rank(
    options: Options, chosen: np.ndarray, target: float, tolerance: float
) -> tuple[float, float]:
    """Sort key of an allocation: how far outside the tolerance, then its noise."""
    distance = abs(options.total_bits(chosen) - target)
    return (distance if distance > tolerance else 0.0, options.total_noise(chosen))


def _relax(options: Options, budget: float) -> tuple[np.ndarray, float, float]:
    """Minimize noise + price * bits per layer, at the price that just meets the budget.

    Returns the allocation, the price and a lower bound on the noise of any allocation that stays
    within the budget.
    """
    rows = np.arange(len(options.bits))

    def at(log_price: float) -> tuple[np.ndarray, float]:
        chosen = (options.noise + np.exp(log_price) * options.bits).argmin(1)
        return chosen, options.bits[rows, chosen].sum()

    positive = options.noise[options.noise > 0]
    scale = np.log(positive.max()) if len(positive) else 0.0
    low, high = scale - 90.0, scale + 10.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle)[1] > budget else (low, middle)
    chosen, spent = at(high)
    price = float(np.exp(high))
    return chosen, price, options.total_noise(chosen) + price * (spent - budget)


def _fill(
    options: Options, budget: float, tolerance: float, relaxed: np.ndarray, price: float
) -> np.ndarray:
    """Choose the core anew so that the budget is met; everything else stays as relaxed."""
    whole = np.arange(len(relaxed))
    found = _search(options, budget, tolerance, relaxed, _core(options, relaxed, price))
    if len(whole) > _CORE and abs(_layer_bits(options, found) - budget) > tolerance:
        found = _search(options, budget, tolerance, relaxed, whole)
    return found


def _layer_bits(options: Options, chosen: np.ndarray) -> float:
    return float(options.bits[np.arange(len(chosen)), chosen].sum())


def _core(options: Options, relaxed: np.ndarray, price: float) -> np.ndarray:
    """Layers that another choice would hurt least: half of them in all, half per bit moved."""
    rows = np.arange(len(relaxed))
    value = options.noise + price * options.bits
    loss = value - value[rows, relaxed][:, None]
    moved = np.abs(options.bits - options.bits[rows, relaxed][:, None])
    other = (moved > 0) & np.isfinite(moved)
    loss = np.where(other, loss, np.inf)
    per_bit = loss / np.where(other, moved, 1.0)
    in_all = np.argsort(loss.min(1), kind="stable")
    per_bit_order = np.argsort(per_bit.min(1), kind="stable")
    picked = dict.fromkeys(in_all[: _CORE // 2].tolist())
    for row in per_bit_order.tolist():
        if len(picked) == min(_CORE, len(rows)):
            break
        picked[row] = None
    return np.array(sorted(picked))


def _search(
    options: Options, budget: float, tolerance: float, relaxed: np.ndarray, core: np.ndarray
) -> np.ndarray:
    """Dynamic programming over the core's bits, in cells; see ``allocate`` for what is sought."""
    bits, noise = options.bits[core], options.noise[core]
    fixed = _layer_bits(options, relaxed) - _layer_bits_of(options, relaxed, core)
    base = bits.min(1)
    goal = budget - fixed - base.sum()
    cell = max(goal + tolerance, tolerance) / _CELLS
    extra = bits - base[:, None]
    steps = np.where(np.isfinite(extra), np.rint(extra / cell), _CELLS + 1)
    steps = np.minimum(steps, _CELLS + 1).astype(np.int64)
    best = np.full(_CELLS + 1, np.inf)
    exact = np.zeros(_CELLS + 1)
    best[0] = 0.0
    columns = np.arange(_CELLS + 1)
    picks = np.zeros((len(core), _CELLS + 1), np.int8)
    for row, step in enumerate(steps):
        noises = np.full((len(step), _CELLS + 1), np.inf)
        for option, cells in enumerate(step):
            if cells <= _CELLS:
                noises[option, cells:] = best[: _CELLS + 1 - cells] + noise[row, option]
        picks[row] = noises.argmin(0)
        best = noises[picks[row], columns]
        came_from = np.maximum(columns - step[picks[row]], 0)
        exact = exact[came_from] + np.where(np.isfinite(best), extra[row, picks[row]], 0.0)
    cell_index = _pick_cell(best, exact - goal, tolerance)
    chosen = relaxed.copy()
    for row in reversed(range(len(core))):
        option = picks[row, cell_index]
        chosen[core[row]] = option
        cell_index -= steps[row, option]
    return chosen


def _layer_bits_of(options: Options, chosen: np.ndarray, rows: np.ndarray) -> float:
    return float(options.bits[rows, chosen[rows]].sum())


def _pick_cell(noise: np.ndarray, over: np.ndarray, tolerance: float) -> int:
    """The quietest cell just below the goal, else just above, else the nearest."""
    found = np.isfinite(noise)
    for window in ((over <= 0) & (over >= -tolerance), (over > 0) & (over <= tolerance)):
        if (found & window).any():
            return int(np.where(found & window, noise, np.inf).argmin())
    return int(np.where(found, np.abs(over), np.inf).argmin())
