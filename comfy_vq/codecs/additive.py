"""Additive vector quantization: groups of 8 weights as a sum of M codebook entries.

The method of VQDM (arXiv 2409.00492) and AQLM (arXiv 2401.06118), with integer codebooks that
layers share and a random block-Hadamard rotation that makes sharing them nearly free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import kernels
from ..kernels import Rotation
from . import beam, feedback
from .codebooks import ENTRIES, GROUP, shipped_set, train
from .encoder import EFFORTS, Coder
from .feedback import Aim
from .on_grid import AXES, OnGrid, OnGridSpec, usual_rotation
from .records import check_fields, rotation_from, rotation_record
from .registry import OnProgress
from .threads import one_thread
from .weight import CodebookSet, VQWeight, to_matrix

_FED_SUMS = 1 << 22
"""Sums kept in a CPU's slab whose errors are fed back, each as often as it has weights."""
_TRAINING_GROUPS = 1 << 15
_HELD_OUT_GROUPS = 1 << 13
_DB_PER_BIT = 20 * math.log10(2)
_LARGEST_GAIN_DB = 3.0
"""More than an own set was ever seen to gain: where it costs more, none is trained."""


@dataclass(frozen=True)
class AdditiveSpec(OnGridSpec):
    """How a weight was coded.

    Attributes:
        codebooks: M, which is also the bits per weight of the codes.
        rotation: block-Hadamard rotation along the input, or None.
        entries, group: entries per codebook and weights per entry.
    """

    codec: ClassVar[str] = "additive"
    kind: ClassVar = kernels.Additive
    codebooks: int
    rotation: Rotation | None = None
    entries: int = ENTRIES
    group: int = GROUP

    @property
    def bits(self) -> int:
        return self.codebooks


@dataclass(frozen=True)
class BeamSearch:
    """A ``Search`` of sums of entries.

    Attributes:
        shared: the codebooks.
        width: partial sums kept per group.
    """

    shared: CodebookSet
    width: int
    kind = kernels.Additive
    backwards = False

    def codes(self, unit: Tensor, aim: Aim | None) -> Tensor:
        if aim is not None:
            rows = feedback.attainable(unit, aim, "additive", len(self.shared.codebooks))
            return feedback.additive(rows, self.shared.values(), self.width, aim)
        groups, values = unit.view(-1, GROUP), self.shared.values()
        codes = beam.search(groups, values, self.width)[0]
        return codes.view(len(unit), -1, len(values))

    def least_rows(self, columns: int) -> int:
        return 0

    @property
    def fed_slab(self) -> int:
        return _FED_SUMS // self.width

    def error(self, groups: Tensor) -> float:
        """Summed squared error of the codes of ``[n, 8]``."""
        return float(beam.search(groups, self.shared.values(), self.width)[1].sum())


class Additive(OnGrid):
    """The whole number of a weight is a sum of M entries."""

    name = "additive"

    def spec_for(
        self, bits: int, shape: tuple[int, ...], seed: int = 0, effort: str = "balanced"
    ) -> AdditiveSpec:
        shipped_set(bits)
        return AdditiveSpec(bits, usual_rotation(shape, seed))

    def encode(
        self,
        weight: Tensor,
        *,
        bits: int = 3,
        effort: str = "balanced",
        moments: Tensor | None = None,
        seed: int = 0,
        rotation: Rotation | None | Literal["auto"] = "auto",
        codebooks: CodebookSet | None = None,
        own_codebooks: bool | Literal["auto"] = "auto",
        unbiased: bool = False,
        on_progress: OnProgress | None = None,
    ) -> VQWeight:
        """Code a weight; see ``codecs.encode``."""
        shape, tries = tuple(weight.shape), EFFORTS[effort]
        matrix = to_matrix(weight)
        shared = codebooks if codebooks is not None else shipped_set(bits)
        search = BeamSearch(shared.to(weight.device), tries.beam)
        coder = Coder(shape[1], search, moments, on_progress, unbiased)
        spec = self.spec_for(bits, shape, seed)
        if rotation != "auto":
            spec = replace(spec, rotation=rotation)
        if own_codebooks is True or (own_codebooks == "auto" and tries.own_sets):
            required = own_codebooks is True
            search = _with_own_set(
                coder, search, matrix, spec.rotation, required=required, seed=seed
            )
            coder = replace(coder, search=search)
        tensors = coder.code(matrix, spec.rotation)
        return VQWeight(spec, shape, weight.dtype, tensors, search.shared)

    def codebook_shape(self, spec: AdditiveSpec) -> tuple[int, ...]:
        return (spec.codebooks, spec.entries, spec.group)

    def to_record(self, spec: AdditiveSpec) -> dict[str, Any]:
        return {
            "codebooks": spec.codebooks,
            "entries": spec.entries,
            "group": spec.group,
            "axes": AXES,
            "rotation": rotation_record(spec.rotation),
        }

    def from_record(self, record: dict[str, Any]) -> AdditiveSpec:
        allowed = {"codebooks": range(1, 7), "entries": (ENTRIES,), "group": (GROUP,)}
        check_fields(self.name, record, {**allowed, "axes": (AXES,)})
        return AdditiveSpec(record["codebooks"], rotation_from(self.name, record["rotation"]))


def _with_own_set(
    coder: Coder,
    search: BeamSearch,
    matrix: Tensor,
    rotation: Rotation | None,
    *,
    required: bool,
    seed: int,
) -> BeamSearch:
    """A search on a set trained on this weight, where the gain pays for storing it.

    A gain of 6.02 dB is worth one bit per weight, at the slope of the rate-distortion curve.
    """
    cost_db = _DB_PER_BIT * 8 * search.shared.nbytes / matrix.numel()
    if cost_db > _LARGEST_GAIN_DB and not required:
        return search
    generator = torch.Generator().manual_seed(seed)
    wanted = (_TRAINING_GROUPS + _HELD_OUT_GROUPS) * GROUP
    rows = torch.randperm(len(matrix), generator=generator)[: -(-wanted // matrix.shape[1])]
    groups = coder.normalized(matrix[rows.to(matrix.device)], rotation).view(-1, GROUP)
    groups = groups[torch.randperm(len(groups), generator=generator).to(groups.device)]
    complete = len(groups) * GROUP == matrix.numel()
    training, held_out = groups[_HELD_OUT_GROUPS:], groups[:_HELD_OUT_GROUPS]
    if complete and len(groups) <= _TRAINING_GROUPS:
        training = held_out = groups
    elif len(training) < _HELD_OUT_GROUPS:
        return search
    report = coder.on_progress
    with one_thread():
        values, every_round = search.shared.values(), None if report is None else lambda: report(0)
        own = replace(
            search,
            shared=train(training, values, rounds=4, beam_width=8, every_round=every_round),
        )
        before, after = search.error(held_out), own.error(held_out)
    gain_db = 10 * math.log10(before / after) if after > 0 else math.inf
    return own if required or gain_db > cost_db else search
