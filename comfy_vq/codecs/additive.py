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
from ..errors import VQError
from ..kernels import Rotation
from . import beam
from .codebooks import ENTRIES, GROUP, shipped_set, slice_length, train
from .registry import OnProgress
from .scales import fit_scales, half_scales
from .weight import CodebookSet, Piece, VQWeight, matrix_shape, to_matrix

_SLAB = 1 << 22
"""Weights that are rotated, searched and fitted at a time."""
_TRAINING_GROUPS = 1 << 15
_HELD_OUT_GROUPS = 1 << 13
_DB_PER_BIT = 20 * math.log10(2)


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


class Additive:
    """weight = row scale * step * (sum of M entries - offset), rotated back."""

    name = "additive"
    version = 1

    def supports(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in (2, 4) and 0 not in shape and shape[1] % GROUP == 0

    def spec_for(self, bits: int, shape: tuple[int, ...], seed: int = 0) -> AdditiveSpec:
        """Rotation blocks of 128, of 64 where the input width asks for it, else none."""
        shipped_set(bits)
        block = next((b for b in (128, 64) if shape[1] % b == 0), None)
        return AdditiveSpec(bits, Rotation(block, seed) if block else None)

    def encode(
        self,
        weight: Tensor,
        *,
        bits: int = 3,
        effort: str = "balanced",
        importance: Tensor | None = None,
        seed: int = 0,
        rotation: Rotation | None | Literal["auto"] = "auto",
        codebooks: CodebookSet | None = None,
        own_codebooks: bool | Literal["auto"] = "auto",
        on_progress: OnProgress | None = None,
    ) -> VQWeight:
        """Code a weight; see ``codecs.encode``."""
        shape, tries = tuple(weight.shape), EFFORTS[effort]
        matrix = to_matrix(weight)
        shared = codebooks if codebooks is not None else shipped_set(bits)
        coder = _Coder(shape[1], shared.to(weight.device), importance, tries, on_progress)
        spec = self.spec_for(bits, shape, seed)
        if rotation != "auto":
            spec = replace(spec, rotation=rotation)
        elif importance is not None and spec.rotation is not None:
            spec = _better_rotation(coder, spec, matrix)
        if own_codebooks is True or (own_codebooks == "auto" and tries.own_sets):
            coder = _with_own_set(coder, spec, matrix, required=own_codebooks is True, seed=seed)
        codes, scales = coder.code(matrix, spec)
        tensors = {"codes": codes, "scales": half_scales(scales)}
        return VQWeight(spec, shape, weight.dtype, tensors, coder.shared)

    def decode(self, weight: VQWeight, dtype: torch.dtype) -> Tensor:
        codes, scales, shared = weight.tensors["codes"], weight.tensors["scales"], weight.codebooks
        if shared is None:
            raise VQError("field codebooks: an additive weight has no codebook set; read it anew")
        return kernels.decode_additive(
            codes,
            shared.codebooks,
            shared.step,
            shared.offset,
            scales,
            weight.spec.rotation,
            weight.shape[1],
            dtype,
        )

    def pieces(self, spec: AdditiveSpec, shape: tuple[int, ...]) -> dict[str, Piece]:
        if spec.rotation is not None and shape[1] % spec.rotation.block:
            raise VQError(
                f"codec additive, field rotation.block: found {spec.rotation.block}, expected a "
                f"divisor of the input width {shape[1]}; quantize again"
            )
        rows, columns = matrix_shape(shape)
        return {
            "codes": Piece(torch.uint8, (rows, columns // spec.group, spec.codebooks)),
            "scales": Piece(torch.float16, (rows,)),
        }

    def codebook_shape(self, spec: AdditiveSpec) -> tuple[int, ...]:
        return (spec.codebooks, spec.entries, spec.group)

    def to_record(self, spec: AdditiveSpec) -> dict[str, Any]:
        turned = spec.rotation
        return {
            "codebooks": spec.codebooks,
            "entries": spec.entries,
            "group": spec.group,
            "axes": "out,kh,kw,in",
            "rotation": None if turned is None else {"block": turned.block, "seed": turned.seed},
        }

    def from_record(self, record: dict[str, Any]) -> AdditiveSpec:
        expected = {"codebooks", "entries", "group", "axes", "rotation"}
        if set(record) != expected:
            raise VQError(
                f"codec additive: found fields {sorted(record)}, expected {sorted(expected)}; "
                "update comfy-vq or quantize again"
            )
        for field, allowed in (
            ("codebooks", range(1, 7)),
            ("entries", (ENTRIES,)),
            ("group", (GROUP,)),
            ("axes", ("out,kh,kw,in",)),
        ):
            if isinstance(record[field], bool) or record[field] not in allowed:
                raise VQError(
                    f"codec additive, field {field}: found {record[field]!r}, expected one of "
                    f"{list(allowed)}; update comfy-vq or quantize again"
                )
        return AdditiveSpec(record["codebooks"], _rotation(record["rotation"]))


def _rotation(record: Any) -> Rotation | None:
    if record is None:
        return None
    if not isinstance(record, dict) or set(record) != {"block", "seed"}:
        raise VQError(
            f"codec additive, field rotation: found {record!r}, expected null or block and seed"
        )
    block, seed = record["block"], record["seed"]
    if type(block) is not int or not 2 <= block <= 1024 or block & (block - 1):
        raise VQError(
            f"codec additive, field rotation.block: found {block!r}, expected a power of two "
            "from 2 to 1024"
        )
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise VQError(
            f"codec additive, field rotation.seed: found {seed!r}, expected 0 to 2**64 - 1"
        )
    return Rotation(block, seed)


@dataclass(frozen=True)
class _Coder:
    """Codes matrices of one input width on one codebook set.

    ``importance`` is float32 ``[columns]`` in the order of the matrix, or None.
    """

    period: int
    shared: CodebookSet
    importance: Tensor | None
    effort: Effort
    on_progress: OnProgress | None

    def code(self, matrix: Tensor, spec: AdditiveSpec) -> tuple[Tensor, Tensor]:
        """uint8 codes ``[rows, groups, M]`` and float32 scales ``[rows]``."""
        slabs = matrix.split(max(1, _SLAB // matrix.shape[1]))
        parts = [self._code_slab(slab.float(), spec) for slab in slabs]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _code_slab(self, slab: Tensor, spec: AdditiveSpec) -> tuple[Tensor, Tensor]:
        turned = self.turn(slab, spec)
        scales = turned.square().mean(1).sqrt()
        codes, fitted, error = self._pass(slab, turned, scales, spec)
        for _ in range(self.effort.passes - 1):
            again = self._pass(slab, turned, fitted, spec)
            better = again[2] < error
            codes = torch.where(better[:, None, None], again[0], codes)
            fitted = torch.where(better, again[1], fitted)
            error = torch.where(better, again[2], error)
        return codes, fitted

    def _pass(
        self, slab: Tensor, turned: Tensor, scales: Tensor, spec: AdditiveSpec
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Search at the given scales, then fit them: codes, new scales, row errors."""
        unit = turned / torch.where(scales > 0, scales, 1.0)[:, None]
        codes = self._search(unit.view(-1, GROUP)).view(len(slab), -1, len(self.shared.codebooks))
        decoded = self.decode_unit(codes, spec)
        fitted = fit_scales(slab, decoded, self.importance).half().float()
        error = (slab - decoded * fitted[:, None]).square()
        if self.importance is not None:
            error = error * self.importance
        return codes, fitted, error.sum(1)

    def _search(self, groups: Tensor) -> Tensor:
        values = self.shared.values()
        columns = None if self.importance is None else self.importance.view(-1, GROUP)
        found, start = [], 0
        for part in groups.split(slice_length(groups.device, self.effort.beam)):
            weights = None
            if columns is not None:
                at = torch.arange(start, start + len(part), device=groups.device) % len(columns)
                weights = columns[at]
            found.append(beam.search(part, values, self.effort.beam, weights)[0])
            start += len(part)
            if self.on_progress is not None:
                self.on_progress(part.numel() / self.effort.passes)
        return torch.cat(found)

    def turn(self, matrix: Tensor, spec: AdditiveSpec) -> Tensor:
        if spec.rotation is None:
            return matrix
        return kernels.rotate(matrix, spec.rotation, self.period)

    def decode_unit(self, codes: Tensor, spec: AdditiveSpec) -> Tensor:
        """What the codes stand for at scale 1, float32."""
        ones = codes.new_ones(len(codes), dtype=torch.float32)
        s = self.shared
        return kernels.decode_additive(
            codes, s.codebooks, s.step, s.offset, ones, spec.rotation, self.period, torch.float32
        )

    def error(self, matrix: Tensor, spec: AdditiveSpec) -> float:
        """Squared error of a float32 matrix under the importance."""
        turned = self.turn(matrix, spec)
        scales = turned.square().mean(1).sqrt()
        return float(replace(self, on_progress=None)._pass(matrix, turned, scales, spec)[2].sum())


def _better_rotation(coder: _Coder, spec: AdditiveSpec, matrix: Tensor) -> AdditiveSpec:
    """Rotation spreads importance over a block, so under importance it has to earn its place."""
    sample = matrix[:: max(1, len(matrix) // 64)].float()
    plain = replace(spec, rotation=None)
    return min((spec, plain), key=lambda choice: coder.error(sample, choice))


def _with_own_set(
    coder: _Coder, spec: AdditiveSpec, matrix: Tensor, *, required: bool, seed: int
) -> _Coder:
    """The coder with a set trained on this weight, where the gain pays for storing it.

    A gain of 6.02 dB is worth one bit per weight, at the slope of the rate-distortion curve.
    """
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
    on_round = None if coder.on_progress is None else lambda _count: coder.on_progress(0)
    own = train(training, coder.shared.values(), rounds=4, beam_width=8, on_round=on_round)
    before, after = (
        float(beam.search(held_out, s.values(), coder.effort.beam)[1].sum())
        for s in (coder.shared, own)
    )
    gain_db = 10 * math.log10(before / after) if after > 0 else math.inf
    cost_db = _DB_PER_BIT * 8 * own.nbytes / matrix.numel()
    return replace(coder, shared=own) if required or gain_db > cost_db else coder
