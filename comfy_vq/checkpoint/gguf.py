"""GGUF files of diffusion models, decoded to dense tensors by the format's own package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import VQError
from .refusal import COPY_AGAIN, plain, refuse

_MAGIC = b"GGUF"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a GGUF file does."""
    try:
        with Path(path).open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def load_gguf(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """All tensors of a GGUF file under their own names, decoded.

    Shapes are those of the original checkpoint: GGUF states sizes in reverse, and tools for
    ComfyUI note the shapes of tensors that they had to fold.

    Returns:
        float16, or float32 where the file has that.

    Raises:
        VQError: the ``gguf`` package is missing, the file is damaged, or of a type of which the
            package knows no decoder.
    """
    with _opened(path) as (gguf, reader):
        return {tensor.name: _decoded(gguf, reader, tensor) for tensor in reader.tensors}


def gguf_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes of all tensors as stored, scales included, and the number of weights.

    Raises:
        VQError: as ``load_gguf``.
    """
    with _opened(path) as (_, reader):
        sizes = [(tensor.n_bytes, tensor.n_elements) for tensor in reader.tensors]
    return sum(nbytes for nbytes, _ in sizes), sum(numel for _, numel in sizes)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """The package and its reader of a file; what goes wrong in the block is the file's fault."""
    try:
        import gguf
    except ImportError:
        refuse(path, "file", "a GGUF file", "the package that reads these", "run: pip install gguf")
    try:
        yield gguf, gguf.GGUFReader(path)
    except NotImplementedError as error:
        refuse(
            path,
            "type of a tensor",
            str(error),
            "one that the gguf package decodes",
            "update it (pip install -U gguf), or take a file of another type",
        )
    except Exception as error:  # whatever Python and numpy meet in bytes that make no sense
        reason = str(error).partition("\n")[0]
        raise VQError(
            f"{path}: file: found bytes that make no sense ({type(error).__name__}: {plain(reason)}), "
            f"expected a whole GGUF file; {COPY_AGAIN}"
        ) from error


def _decoded(gguf: Any, reader: Any, tensor: Any) -> Tensor:
    kept = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
    if tensor.tensor_type in kept:
        dense = torch.from_numpy(tensor.data.copy())
    else:
        dense = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).half()
    folded = reader.get_field(_ORIGINAL_SHAPE + tensor.name)
    shape = folded.contents() if folded is not None else reversed(tensor.shape.tolist())
    return dense.reshape(tuple(shape))
