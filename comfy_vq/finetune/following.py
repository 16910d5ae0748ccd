"""Codes that move: each follows a target that gradients push, as rows take their turns.

Straight-through estimation with the re-assignment of PV-Tuning (arXiv 2405.14852): gradients of the
decoded weight act on a target of full precision; at every step a small share of the rows is coded
anew, as near to its target as the codec's own search finds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import kernels
from ..codecs import VQWeight
from ..codecs.additive import BeamSearch
from ..codecs.encoder import Search
from ..codecs.trellis import ViterbiSearch
from ..errors import VQError
from .learned import LearnedWeight

_BEAM = 8
_MEAN, _SQUARE = 0.9, 0.95
_TINY = 1e-20


def can_follow(weight: VQWeight) -> bool:
    """Whether a weight's codes are found by a search that these targets can be given to."""
    return isinstance(weight.coded(), (kernels.Additive, kernels.Trellis))


def numbers(weight: VQWeight) -> Tensor:
    """What the codes stand for, in units of the row scale, float32 ``[rows, columns]``."""
    coded = weight.coded()
    plain = coded._replace(scales=torch.ones_like(coded.scales, dtype=torch.float32), rotation=None)
    return kernels.decode(plain, torch.float32)


class Follower:
    """The target of one weight's codes, and the steps towards it.

    Steps are Adam's with one second moment for a row: its numbers are alike.

    Args:
        learned: whose codes are to follow; keeps gradients for them from now on.
        turns: steps after which every row has been coded anew once.
    """

    def __init__(self, learned: LearnedWeight, turns: int) -> None:
        self._learned = learned
        self._rows = -(-len(learned.codes) // turns)
        learned.following = True
        self.target = numbers(learned.weight)
        self.mean = torch.zeros_like(self.target)
        self.square = torch.zeros(len(self.target), 1, device=self.target.device)

    def step(self, number: int, rate: float) -> None:
        """Move the target against the gradient, which is used up, and let some rows follow.

        Args:
            number: of the step, from 1.
            rate: how far the target moves, in units of the row scale.
        """
        gradient, self._learned.gradient = self._learned.gradient, None
        if gradient is None:
            return
        self.mean.lerp_(gradient, 1 - _MEAN)
        self.square.lerp_(gradient.square().mean(1, keepdim=True), 1 - _SQUARE)
        spread = (self.square / (1 - _SQUARE**number)).sqrt_().add_(_TINY)
        self.target.addcdiv_(self.mean, spread, value=-rate / (1 - _MEAN**number))
        total = len(self.target)
        start = (number - 1) * self._rows % (-(-total // self._rows) * self._rows)
        part = slice(start, start + self._rows)
        search = _search(self._learned.weight)  # anew: codebooks may learn, too
        self._learned.codes[part] = search.codes(self.target[part], None)

    def go_back(self) -> None:
        """To what the codes stand for, which have been restored, and to a standstill."""
        self.target.copy_(numbers(self._learned.weight))
        self.mean.zero_()

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint; the tensors are those in use."""
        return {"target": self.target, "mean": self.mean, "square": self.square}


def _search(weight: VQWeight) -> Search:
    shared = weight.codebooks
    if shared is None:
        raise VQError(f"field codebooks: a weight of codec {weight.codec} has no codebook set")
    if isinstance(weight.coded(), kernels.Trellis):
        return ViterbiSearch(shared, weight.spec.bits)
    return BeamSearch(shared, _BEAM)
