"""GGUF's types by ggml itself: its library out of a Python package, through ctypes.

    pip install --no-deps pywhispercpp

Any package that brings a shared ``ggml-base`` will do; llama-cpp-python builds one from source.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor

from comfy_vq.errors import VQError

_PACKAGES = ("pywhispercpp", "llama-cpp-python")


@cache
def library() -> ctypes.CDLL:
    """ggml.

    Raises:
        VQError: no package that brings it is installed.
    """
    for path in _installed():
        try:
            found = ctypes.CDLL(str(path))
        except OSError:  # such as the other of two copies, whose dependencies are elsewhere
            continue
        return _declared(found)
    raise VQError(
        "found no ggml, expected a package that brings its library; run: "
        f"pip install --no-deps {_PACKAGES[0]}"
    )


def version() -> str:
    return library().ggml_version().decode()


def quantize(matrix: Tensor, kind: str, importance: Tensor | None = None) -> np.ndarray:
    """Code rows, whose length must be a multiple of the type's block.

    Args:
        matrix: float32 ``[rows, columns]``.
        kind: a type by GGUF's name, such as ``Q4_K``.
        importance: weights of the columns, float32 ``[columns]``; types that cannot do without
            take one for each.

    Returns:
        uint8 ``[rows, bytes]``.

    Raises:
        VQError: the length of the rows does not fit.
    """
    number = GGMLQuantizationType[kind]
    block, nbytes = GGML_QUANT_SIZES[number]
    rows, columns = matrix.shape
    if columns % block:
        raise VQError(f"{kind}: found rows of {columns} weights, expected a multiple of {block}")
    ggml = library()
    if importance is None and ggml.ggml_quantize_requires_imatrix(number):
        importance = torch.ones(columns)
    source = np.ascontiguousarray(matrix.float().numpy())
    stored = np.empty((rows, columns // block * nbytes), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance.float().numpy())
    pointer = None if weights is None else weights.ctypes.data
    written = ggml.ggml_quantize_chunk(
        number, source.ctypes.data, stored.ctypes.data, 0, rows, columns, pointer
    )
    assert written == stored.nbytes, f"{kind}: ggml wrote {written} bytes, not {stored.nbytes}"
    return stored


def dequantize(stored: np.ndarray, kind: str) -> Tensor:
    """float32 ``[rows, columns]``, by the format's own Python package."""
    return torch.from_numpy(quants.dequantize(stored, GGMLQuantizationType[kind]))


def block_of(kind: str) -> int:
    """Weights that share a scale, of which rows must be a multiple."""
    return GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0]


def _installed() -> list[Path]:
    found = []
    for package in _PACKAGES:
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in files if "ggml-base" in file.name]
        # Copies that a wheel was repaired with have all that they depend on beside them.
        found += sorted(paths, key=lambda path: not path.parent.name.endswith(".libs"))
    return found


def _declared(ggml: ctypes.CDLL) -> ctypes.CDLL:
    ggml.ggml_version.restype = ctypes.c_char_p
    ggml.ggml_quantize_requires_imatrix.restype = ctypes.c_bool
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,  # type
        ctypes.c_void_p,  # source, float32
        ctypes.c_void_p,  # destination
        ctypes.c_int64,  # start
        ctypes.c_int64,  # rows
        ctypes.c_int64,  # weights a row
        ctypes.c_void_p,  # importance, float32, or null
    ]
    return ggml
