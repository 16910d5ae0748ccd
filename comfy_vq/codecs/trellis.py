"""Trellis-coded quantization: each weight is named by a window of bits that overlaps its neighbours'.

The method of QTIP (arXiv 2406.11235) with a bit shift for a trellis and a table of values. At k bits
per weight a window of L bits chooses among 2^L values where k alone choose among 2^k; the price is
that successive choices are not free, so that encoding is a search for a whole row's best path. The
table, integers on one grid, is shared between layers as the codebooks of ``additive`` are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from .. import kernels
from ..errors import VQError
from ..kernels import Rotation
from . import feedback, viterbi
from .codebooks import shipped_table
from .encoder import EFFORTS, Coder
from .feedback import Aim
from .on_grid import AXES, OnGrid, OnGridSpec, usual_rotation
from .records import check_fields, rotation_from, rotation_record
from .registry import OnProgress
from .weight import CodebookSet, VQWeight, to_matrix

BITS = range(2, 6)
WINDOWS = (10, 12)
_ROWS = 128
"""Of a CPU's slabs at least, so that calls of operators do not count."""
_FED_STATES = 1 << 28
"""States seen in a CPU's slab whose errors are fed back, each as often as it has weights."""


@dataclass(frozen=True)
class TrellisSpec(OnGridSpec):
    """How a weight was coded.

    Attributes:
        bits: k, per weight of the codes.
        window: L, bits that choose a value.
        rotation: block-Hadamard rotation along the input, or None.
    """

    codec: ClassVar[str] = "trellis"
    kind: ClassVar = kernels.Trellis
    bits: int
    window: int = 12
    rotation: Rotation | None = None


@dataclass(frozen=True)
class ViterbiSearch:
    """A ``Search`` of paths.

    Attributes:
        shared: the table, codebooks ``[1, 2^L, 1]``.
        bits: k.
    """

    shared: CodebookSet
    bits: int
    kind = kernels.Trellis
    backwards = True

    def codes(self, unit: Tensor, aim: Aim | None) -> Tensor:
        values = self.shared.values().flatten()
        if aim is not None:
            rows = feedback.attainable(unit, aim, "trellis", self.bits)
            return feedback.trellis(rows, values, self.bits, aim)
        return viterbi.search(unit, values, self.bits)

    def least_rows(self, columns: int) -> int:
        codebooks = self.shared.codebooks
        states = codebooks.shape[1]
        most = viterbi.rows_at_once(codebooks.device, columns, states, states >> self.bits)
        return min(_ROWS, most)

    @property
    def fed_slab(self) -> int:
        return _FED_STATES // self.shared.codebooks.shape[1]


class Trellis(OnGrid):
    """The whole number of a weight is the entry that its window names."""

    name = "trellis"

    def spec_for(
        self, bits: int, shape: tuple[int, ...], seed: int = 0, effort: str = "balanced"
    ) -> TrellisSpec:
        if bits not in BITS:
            raise VQError(f"trellis codes have 2 to 5 bits per weight, not {bits}")
        return TrellisSpec(bits, EFFORTS[effort].window, usual_rotation(shape, seed))

    def encode(
        self,
        weight: Tensor,
        *,
        bits: int = 3,
        effort: str = "balanced",
        moments: Tensor | None = None,
        seed: int = 0,
        rotation: Rotation | None | Literal["auto"] = "auto",
        unbiased: bool = False,
        on_progress: OnProgress | None = None,
    ) -> VQWeight:
        """Code a weight; see ``codecs.encode``."""
        shape = tuple(weight.shape)
        matrix, spec = to_matrix(weight), self.spec_for(bits, shape, seed, effort)
        search = ViterbiSearch(shipped_table(bits, spec.window).to(weight.device), bits)
        coder = Coder(shape[1], search, moments, on_progress, unbiased)
        if rotation != "auto":
            spec = replace(spec, rotation=rotation)
        tensors = coder.code(matrix, spec.rotation)
        return VQWeight(spec, shape, weight.dtype, tensors, search.shared)

    def codebook_shape(self, spec: TrellisSpec) -> tuple[int, ...]:
        return (1, 1 << spec.window, 1)

    def to_record(self, spec: TrellisSpec) -> dict[str, Any]:
        return {
            "bits": spec.bits,
            "window": spec.window,
            "axes": AXES,
            "rotation": rotation_record(spec.rotation),
        }

    def from_record(self, record: dict[str, Any]) -> TrellisSpec:
        check_fields(self.name, record, {"bits": BITS, "window": WINDOWS, "axes": (AXES,)})
        rotation = rotation_from(self.name, record["rotation"])
        return TrellisSpec(record["bits"], record["window"], rotation)
