"""The quietest allocation where errors of layers add up as vectors.

What a layer's coding changes in a network's output is small, so the changes of all layers
superpose: the noise of an allocation is ``|sum_l e_l|^2``, with ``e_l`` what the option that layer
``l`` takes changes by itself. Unlike a sum of powers this knows which errors agree and which cancel.
"""

from __future__ import annotations

import numpy as np

_MOVES = 1000
_WORTH = 1e-6
"""Of the noise, what a move has to save."""


def improve(
    layers: np.ndarray,
    bits: np.ndarray,
    errors: np.ndarray,
    picked: np.ndarray,
    spare: float,
) -> np.ndarray:
    """Change one layer's option, or two layers', as long as noise falls and bits suffice.

    The best of all such moves each time; deterministic.

    Args:
        layers: int ``[C]``, whose option each candidate is, ``0..L - 1``.
        bits: float64 ``[C]``, what it stores.
        errors: float64 ``[C, n]``, what it changes in the output.
        picked: int ``[L]``, by layer, the candidate to begin with.
        spare: bits that may be added.

    Returns:
        int ``[L]``, whose bits are at most ``spare`` more than those of ``picked``.
    """
    gram = errors @ errors.T
    powers = gram.diagonal()
    picked = picked.copy()
    same = layers[:, None] == layers[None]
    for _ in range(_MOVES):
        current = picked[layers]
        along = gram[:, picked].sum(1)
        away = gram[np.arange(len(layers)), current]
        single = 2 * (along - along[current]) + powers - 2 * away + powers[current]
        cost = bits - bits[current]
        crossed = gram - gram[:, current] - gram[current] + gram[np.ix_(current, current)]
        pairs = single[:, None] + single[None] + 2 * crossed
        pairs[same | (cost[:, None] + cost[None] > spare)] = np.inf
        single[cost > spare] = np.inf
        one = int(single.argmin())
        two = np.unravel_index(int(pairs.argmin()), pairs.shape)
        noise = gram[np.ix_(picked, picked)].sum()
        if min(single[one], pairs[two]) >= -_WORTH * noise:
            break
        moved = [one] if single[one] <= pairs[two] else [int(two[0]), int(two[1])]
        picked[layers[moved]] = moved
        spare -= cost[moved].sum()
    return picked
