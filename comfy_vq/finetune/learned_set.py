"""A codebook set that learns."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..codecs import CodebookSet, shipped_set


class LearnedSet:
    """Stands in for a codebook set while layers that refer to it learn.

    They compute with entries as they would be stored now. An entry stays between 0 and the largest
    entry that its codebook began with, so that sums of entries stay bytes.

    Args:
        shared: on the device of the network; it is not changed.

    Attributes:
        stored: the set as it would be stored now.
        entries: float32 ``[M, entries, group]``, in steps of the grid, less ``middles``.
        middles: float32 ``[M, 1, 1]``, means of the codebooks when they began to learn.
    """

    def __init__(self, shared: CodebookSet) -> None:
        self._begun = shared
        self.stored = shared
        entries = shared.codebooks.float()
        self.middles = entries.mean((1, 2), keepdim=True)
        self.entries = nn.Parameter(entries - self.middles)
        self._largest = entries.amax((1, 2), keepdim=True)

    def settle(self) -> None:
        """Round the entries as they are stored, after ``entries`` have changed.

        In a tensor of its own: kernels keep what they have found out about one.
        """
        entries = (self.entries.detach() + self.middles).round_()
        entries = entries.clamp_(min=0).minimum(self._largest).to(torch.uint8)
        self.stored = replace(self.stored, codebooks=entries)

    def finished(self, known: Collection[str]) -> CodebookSet:
        """The set to store, on the CPU; what it began with where nothing has changed.

        Args:
            known: names of all sets in use; a shipped one has to keep its entries.
        """
        if torch.equal(self.stored.codebooks, self._begun.codebooks):
            return self._begun.to("cpu")
        name = self.stored.name
        if name == shipped_set(len(self.middles)).name:
            while name in known:
                name = f"tuned.{name}"
        return replace(self.stored, name=name).to("cpu")

    def slopes(self, gradient: Tensor, codes: Tensor) -> Tensor:
        """The gradient of ``entries`` that one layer gives.

        Args:
            gradient: of the numbers that codes stand for, float32 ``[rows, columns]``.
            codes: uint8 ``[rows, groups, M]``.
        """
        groups = gradient.reshape(-1, self.entries.shape[2])
        slopes = torch.zeros_like(self.entries)
        for slope, chosen in zip(slopes, codes.flatten(0, 1).T, strict=True):
            # Unlike index_add_, it adds in the same order on a graphics card, too.
            slope.index_put_((chosen.long(),), groups, accumulate=True)
        return slopes.mul_(self.stored.step)
