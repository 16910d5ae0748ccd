"""One layer at a time in a type of GGUF: with its own rows, or in rows that suit the type."""

from __future__ import annotations

import torch
from torch import Tensor

from . import ggml
from .format import Coder

_ROW = 256
_SMALL_BLOCKS = {
    "Q2_K": "IQ4_NL",
    "Q3_K": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What llama-quantize takes for rows that are no multiple of 256."""


def own_rows(kind: str) -> Coder:
    """As llama-quantize stores a layer: in another type where its rows do not fit this one."""

    def coder(matrix: Tensor) -> tuple[Tensor, int]:
        fits = matrix.shape[1] % ggml.block_of(kind) == 0
        return _coded(matrix, kind if fits else _SMALL_BLOCKS[kind])

    return coder


def cut_anew(kind: str) -> Coder:
    """In rows of 256, as ComfyUI-GGUF cuts those of SD1 and SDXL."""
    return _in_rows_of_256(kind, None)


def flattened(kind: str) -> Coder:
    """In rows of 256, and with an importance of one for every column; see ``gguf_files.write``."""
    return _in_rows_of_256(kind, torch.ones(_ROW))


def _in_rows_of_256(kind: str, importance: Tensor | None) -> Coder:
    def coder(matrix: Tensor) -> tuple[Tensor, int]:
        decoded, nbytes = _coded(matrix.reshape(-1, _ROW), kind, importance)
        return decoded.reshape(matrix.shape), nbytes

    return coder


def _coded(matrix: Tensor, kind: str, importance: Tensor | None = None) -> tuple[Tensor, int]:
    stored = ggml.quantize(matrix, kind, importance)
    return ggml.dequantize(stored, kind), stored.nbytes
