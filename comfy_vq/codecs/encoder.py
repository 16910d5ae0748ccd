"""How codes of rows are found: rotate, normalize, search, fit row scales.

What is searched for, and how, is a codec's own: it brings a ``Search``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from .. import kernels
from ..kernels import Rotation
from .feedback import Aim, aim_at
from .registry import OnProgress
from .scales import fit_scales, half_scales, squared_errors, unbiased_scales
from .threads import map_slabs, one_thread
from .weight import CodebookSet

REVISION = 5
"""Counts changes of what a quantization makes of the same weights and settings, for its cache."""
_CPU_SLAB, _SLAB = 1 << 15, 1 << 22
"""Weights that are rotated, searched and fitted at a time: by a thread of a CPU, or elsewhere. A user who interrupts
waits for one slab of each thread."""
_FED_SLAB = 1 << 20
"""The same where errors are fed back, but on a CPU, see ``Search.fed_slab``."""
_LEAST_ROWS = 32
"""Of a slab."""
_WINDOW, _LOUD, _QUIET = 64, 1.7, 1.4
"""Where a network makes some activations huge, a row may have nearly all of its power in one weight. Rotation spreads
that over its block, where it is still beyond the range of codes for a row of mean square 1. So a row with a window of
columns this loud, as a root mean square (of three blocks one that holds everything reaches 3 ** 0.5), is searched a
second time, scaled down until its loudest window has the last of these."""


@dataclass(frozen=True)
class Effort:
    """How hard the encoders try.

    Attributes:
        beam: partial sums of additive codes kept per group.
        window: bits of a trellis code's window.
        own_sets: whether a layer may train a codebook set of its own.
    """

    beam: int
    window: int = 12
    own_sets: bool = False


EFFORTS = {
    "fast": Effort(beam=2, window=10),
    "balanced": Effort(beam=8),
    "best": Effort(beam=32, own_sets=True),
}


class Search(Protocol):
    """Finds the codes of normalized rows on a codebook set."""

    @property
    def shared(self) -> CodebookSet:
        """The set."""
        ...

    def codes(self, unit: Tensor, aim: Aim | None) -> Tensor:
        """uint8 ``[rows, groups, bits]`` near float32 ``unit [rows, columns]``.

        Args:
            aim: what ``aim_at`` made of moments, under which errors are fed back, or None.
        """
        ...

    backwards: bool
    """Whether it goes from a row's last weight to its first."""

    def least_rows(self, columns: int) -> int:
        """Rows of a CPU's slabs at least, without moments; 0 where one is as good as many."""
        ...

    @property
    def fed_slab(self) -> int:
        """Weights of a CPU's slab under moments: some seconds' work, and enough not to be slower for it."""
        ...

    @property
    def kind(self) -> type[kernels.Additive | kernels.Trellis]:
        """As what the kernels decode the codes."""
        ...


@dataclass(frozen=True)
class Coder:
    """Codes matrices of one input width.

    Attributes:
        period: input width.
        search: what finds the codes of rows.
        moments: of the input, float32 ``[blocks, width, width]``, see ``scales.weighted``; None to
            take all directions alike.
        on_progress: as in ``codecs.encode``.
        unbiased: whether the final scales are ``unbiased_scales``.
    """

    period: int
    search: Search
    moments: Tensor | None
    on_progress: OnProgress | None
    unbiased: bool = False

    def code(self, matrix: Tensor, rotation: Rotation | None) -> dict[str, Tensor]:
        """The pieces to store: uint8 codes ``[rows, groups, bits]`` and float16 scales ``[rows]``."""
        slabs = matrix.split(self._slab_rows(matrix))
        slab_of = partial(self._slab, rotation, self._aim(rotation))
        codes, scales = [], []
        for slab, (code, scale) in zip(slabs, map_slabs(slab_of, slabs), strict=True):
            codes.append(code)
            scales.append(scale)
            if self.on_progress is not None:
                self.on_progress(slab.numel())
        return {"codes": torch.cat(codes), "scales": half_scales(torch.cat(scales))}

    def _slab_rows(self, matrix: Tensor) -> int:
        columns, on_cpu = matrix.shape[1], matrix.device.type == "cpu"
        if self.moments is not None:
            # a step takes one group of each row, so many rows have to make up a batch
            return max(_LEAST_ROWS, (self.search.fed_slab if on_cpu else _FED_SLAB) // columns)
        least = max(_LEAST_ROWS, self.search.least_rows(columns) if on_cpu else 0)
        return max(least, (_CPU_SLAB if on_cpu else _SLAB) // columns)

    def _aim(self, rotation: Rotation | None) -> Aim | None:
        """What the search is for in the rotated matrix."""
        if self.moments is None:
            return None
        with one_thread():  # of several, each number rounds in its own way
            return aim_at(self.moments, rotation, self.period, backwards=self.search.backwards)

    def normalized(self, matrix: Tensor, rotation: Rotation | None) -> Tensor:
        """Rows as they are searched at first: float32, rotated, of mean square 1 where not zero."""
        turned = self._turned(matrix.float(), rotation)
        return _unit(turned, _norms(turned))

    def _slab(
        self, rotation: Rotation | None, aim: Aim | None, slab: Tensor
    ) -> tuple[Tensor, Tensor]:
        slab = slab.float()
        unit = self.normalized(slab, rotation)
        codes, scales, decoded = self._found(slab, unit, rotation, aim)
        peaks = _peaks(unit)
        loud = (peaks > _LOUD).nonzero().flatten()
        if len(loud):
            rows, quiet = slab[loud], unit[loud] * (_QUIET / peaks[loud])[:, None]
            found, fitted, anew = self._found(rows, quiet, rotation, aim)
            before = squared_errors(rows, scales[loud, None] * decoded[loud], self.moments)
            better = squared_errors(rows, fitted[:, None] * anew, self.moments) < before
            codes[loud[better]], scales[loud[better]] = found[better], fitted[better]
        return codes, scales

    def _found(
        self, slab: Tensor, unit: Tensor, rotation: Rotation | None, aim: Aim | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of rows, their scales ``[rows]``, and what the codes stand for at scale 1."""
        codes = self.search.codes(unit, aim)
        decoded = self._decoded(codes, rotation)
        fit = unbiased_scales if self.unbiased else fit_scales
        return codes, fit(slab, decoded, self.moments), decoded

    def _turned(self, matrix: Tensor, rotation: Rotation | None) -> Tensor:
        return matrix if rotation is None else kernels.rotate(matrix, rotation, self.period)

    def _decoded(self, codes: Tensor, rotation: Rotation | None) -> Tensor:
        """What the codes stand for at scale 1, float32."""
        ones, shared = codes.new_ones(len(codes), dtype=torch.float32), self.search.shared
        grid = shared.codebooks, shared.step, shared.offset
        weight = self.search.kind(codes, *grid, ones, rotation, self.period)
        return kernels.decode(weight, torch.float32)


def _norms(matrix: Tensor) -> Tensor:
    """Root mean squares ``[rows]``."""
    return matrix.square().mean(1).sqrt()


def _peaks(unit: Tensor) -> Tensor:
    """Root mean squares ``[rows]`` of the loudest windows."""
    windows = unit.view(len(unit), -1, math.gcd(unit.shape[1], _WINDOW))
    return windows.square().mean(2).amax(1).sqrt()


def _unit(matrix: Tensor, scales: Tensor) -> Tensor:
    return matrix / torch.where(scales > 0, scales, 1.0)[:, None]
