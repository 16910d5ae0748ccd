"""Additive vector quantization: groups of 8 weights as a sum of M codebook entries.

The method of VQDM (arXiv 2409.00492) and AQLM (arXiv 2401.06118), with integer codebooks that
layers share and a random block-Hadamard rotation that makes sharing them nearly free.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from .. import kernels
from ..errors import VQError
from ..kernels import Rotation
from .codebooks import ENTRIES, GROUP, shipped_set
from .encoder import EFFORTS, AdditiveSpec, Coder, better_rotation, with_own_set
from .registry import OnProgress
from .scales import half_scales
from .weight import RANKS, CodebookSet, Piece, VQWeight, matrix_shape, to_matrix


class Additive:
    """weight = row scale * step * (sum of M entries - offset), rotated back."""

    name = "additive"
    version = 1

    def supports(self, shape: tuple[int, ...]) -> bool:
        return len(shape) in RANKS and 0 not in shape and shape[1] % GROUP == 0

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
        unbiased: bool = False,
        on_progress: OnProgress | None = None,
    ) -> VQWeight:
        """Code a weight; see ``codecs.encode``."""
        shape, tries = tuple(weight.shape), EFFORTS[effort]
        matrix = to_matrix(weight)
        shared = codebooks if codebooks is not None else shipped_set(bits)
        coder = Coder(shape[1], shared.to(weight.device), importance, tries, on_progress, unbiased)
        spec = self.spec_for(bits, shape, seed)
        if rotation != "auto":
            spec = replace(spec, rotation=rotation)
        elif importance is not None and spec.rotation is not None:
            spec = better_rotation(coder, spec, matrix)
        if own_codebooks is True or (own_codebooks == "auto" and tries.own_sets):
            coder = with_own_set(coder, spec, matrix, required=own_codebooks is True, seed=seed)
        codes, scales = coder.code(matrix, spec)
        tensors = {"codes": codes, "scales": half_scales(scales)}
        return VQWeight(spec, shape, weight.dtype, tensors, coder.shared)

    def decode(self, weight: VQWeight, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
        return kernels.decode_additive(self.coded(weight), dtype, out)

    def coded(self, weight: VQWeight) -> kernels.Additive:
        codes, scales, shared = weight.tensors["codes"], weight.tensors["scales"], weight.codebooks
        if shared is None:
            raise VQError("field codebooks: an additive weight has no codebook set; read it anew")
        grid = shared.codebooks, shared.step, shared.offset
        return kernels.Additive(codes, *grid, scales, weight.spec.rotation, weight.shape[1])

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
            if type(record[field]) not in (int, str) or record[field] not in allowed:
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
            f"codec additive, field rotation: found {record!r}, expected null or block and seed; "
            "quantize again"
        )
    block, seed = record["block"], record["seed"]
    if type(block) is not int or not 2 <= block <= 1024 or block & (block - 1):
        raise VQError(
            f"codec additive, field rotation.block: found {block!r}, expected a power of two "
            "from 2 to 1024; quantize again"
        )
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise VQError(
            f"codec additive, field rotation.seed: found {seed!r}, expected a whole number from 0 "
            "to 2**64 - 1; quantize again"
        )
    return Rotation(block, seed)
