"""How additive codes are found: rotate, normalize rows, search with a beam, fit row scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from .. import kernels
from ..kernels import Rotation
from . import beam
from .codebooks import ENTRIES, GROUP, train
from .registry import OnProgress
from .scales import fit_scales, unbiased_scales
from .threads import map_slabs, one_thread
from .weight import CodebookSet

_CPU_SLAB, _SLAB = 1 << 17, 1 << 22
"""Weights that are rotated, searched and fitted at a time: by a thread of a CPU, or elsewhere."""
_TRAINING_GROUPS = 1 << 15
_HELD_OUT_GROUPS = 1 << 13
_DB_PER_BIT = 20 * math.log10(2)
_LARGEST_GAIN_DB = 3.0
"""More than an own set was ever seen to gain: where it costs more, none is trained."""


@dataclass(frozen=True)
class AdditiveSpec:
    """How a weight was coded.

    Attributes:
        codebooks: M, which is also the bits per weight of the codes.
        rotation: block-Hadamard rotation along the input, or None.
        entries, group: entries per codebook and weights per entry.
    """

    codec: ClassVar[str] = "additive"
    codebooks: int
    rotation: Rotation | None = None
    entries: int = ENTRIES
    group: int = GROUP


@dataclass(frozen=True)
class Effort:
    """How hard the encoder tries.

    Attributes:
        beam: partial sums kept per group.
        passes: searches per row; each after the first starts from the refitted scale.
        own_sets: whether a layer may train a codebook set of its own.
    """

    beam: int
    passes: int = 1
    own_sets: bool = False


EFFORTS = {
    "fast": Effort(beam=2),
    "balanced": Effort(beam=8),
    "best": Effort(beam=16, passes=2, own_sets=True),
}


@dataclass(frozen=True)
class Coder:
    """Codes matrices of one input width on one codebook set.

    Attributes:
        period: input width.
        shared: the set.
        importance: float32 ``[columns]`` in the order of the matrix, or None.
        effort, on_progress: as in ``codecs.encode``.
        unbiased: whether the final scales are ``unbiased_scales``.
    """

    period: int
    shared: CodebookSet
    importance: Tensor | None
    effort: Effort
    on_progress: OnProgress | None
    unbiased: bool = False

    def code(self, matrix: Tensor, spec: AdditiveSpec) -> tuple[Tensor, Tensor]:
        """uint8 codes ``[rows, groups, M]`` and float32 scales ``[rows]``."""
        size = _CPU_SLAB if matrix.device.type == "cpu" else _SLAB
        slabs = matrix.split(max(1, size // matrix.shape[1]))
        codes, scales = [], []
        for slab, (code, scale) in zip(
            slabs, map_slabs(partial(self._slab, spec), slabs), strict=True
        ):
            codes.append(code)
            scales.append(scale)
            if self.on_progress is not None:
                self.on_progress(slab.numel())
        return torch.cat(codes), torch.cat(scales)

    def _slab(self, spec: AdditiveSpec, slab: Tensor) -> tuple[Tensor, Tensor]:
        slab = slab.float()
        turned = self.turn(slab, spec)
        scales = turned.square().mean(1).sqrt()
        codes, fitted, error = self._pass(slab, turned, scales, spec)
        for _ in range(self.effort.passes - 1):
            again = self._pass(slab, turned, fitted, spec)
            better = again[2] < error
            codes = torch.where(better[:, None, None], again[0], codes)
            fitted = torch.where(better, again[1], fitted)
            error = torch.where(better, again[2], error)
        if self.unbiased:
            fitted = unbiased_scales(slab, self.decode_unit(codes, spec), self.importance)
        return codes, fitted

    def _pass(
        self, slab: Tensor, turned: Tensor, scales: Tensor, spec: AdditiveSpec
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Search at the given scales, then fit them: codes, new scales, row errors."""
        unit = turned / torch.where(scales > 0, scales, 1.0)[:, None]
        # a rotation mixes the columns of a block, so importance cannot steer the search there
        importance = None
        if self.importance is not None and spec.rotation is None:
            importance = self.importance.expand_as(unit).reshape(-1, GROUP)
        values, width = self.shared.values(), self.effort.beam
        codes = beam.search(unit.view(-1, GROUP), values, width, importance)[0]
        codes = codes.view(len(slab), -1, len(values))
        decoded = self.decode_unit(codes, spec)
        fitted = fit_scales(slab, decoded, self.importance).half().float()
        error = (slab - decoded * fitted[:, None]).square()
        if self.importance is not None:
            error = error * self.importance
        return codes, fitted, error.sum(1)

    def turn(self, matrix: Tensor, spec: AdditiveSpec) -> Tensor:
        if spec.rotation is None:
            return matrix
        return kernels.rotate(matrix, spec.rotation, self.period)

    def decode_unit(self, codes: Tensor, spec: AdditiveSpec) -> Tensor:
        """What the codes stand for at scale 1, float32."""
        ones = codes.new_ones(len(codes), dtype=torch.float32)
        grid = self.shared.codebooks, self.shared.step, self.shared.offset
        weight = kernels.Additive(codes, *grid, ones, spec.rotation, self.period)
        return kernels.decode_additive(weight, torch.float32)

    def error(self, matrix: Tensor, spec: AdditiveSpec) -> float:
        """Squared error of a float32 matrix under the importance."""
        turned = self.turn(matrix, spec)
        scales = turned.square().mean(1).sqrt()
        return float(replace(self, on_progress=None)._pass(matrix, turned, scales, spec)[2].sum())


def better_rotation(coder: Coder, spec: AdditiveSpec, matrix: Tensor) -> AdditiveSpec:
    """Rotation spreads importance over a block, so under importance it has to earn its place."""
    sample = matrix[:: max(1, len(matrix) // 64)].float()
    plain = replace(spec, rotation=None)
    return min((spec, plain), key=lambda choice: coder.error(sample, choice))


def with_own_set(
    coder: Coder, spec: AdditiveSpec, matrix: Tensor, *, required: bool, seed: int
) -> Coder:
    """The coder with a set trained on this weight, where the gain pays for storing it.

    A gain of 6.02 dB is worth one bit per weight, at the slope of the rate-distortion curve.
    """
    cost_db = _DB_PER_BIT * 8 * coder.shared.nbytes / matrix.numel()
    if cost_db > _LARGEST_GAIN_DB and not required:
        return coder
    generator = torch.Generator().manual_seed(seed)
    wanted = (_TRAINING_GROUPS + _HELD_OUT_GROUPS) * GROUP
    rows = torch.randperm(len(matrix), generator=generator)[: -(-wanted // matrix.shape[1])]
    turned = coder.turn(matrix[rows.to(matrix.device)].float(), spec)
    scales = turned.square().mean(1, keepdim=True).sqrt()
    groups = (turned / torch.where(scales > 0, scales, 1.0)).view(-1, GROUP)
    groups = groups[torch.randperm(len(groups), generator=generator).to(groups.device)]
    complete = len(groups) * GROUP == matrix.numel()
    training, held_out = groups[_HELD_OUT_GROUPS:], groups[:_HELD_OUT_GROUPS]
    if complete and len(groups) <= _TRAINING_GROUPS:
        training = held_out = groups
    elif len(training) < _HELD_OUT_GROUPS:
        return coder
    report = coder.on_progress
    with one_thread():
        values, every_round = coder.shared.values(), None if report is None else lambda: report(0)
        own = train(training, values, rounds=4, beam_width=8, every_round=every_round)
        before, after = (
            float(beam.search(held_out, s.values(), coder.effort.beam)[1].sum())
            for s in (coder.shared, own)
        )
    gain_db = 10 * math.log10(before / after) if after > 0 else math.inf
    return replace(coder, shared=own) if required or gain_db > cost_db else coder
