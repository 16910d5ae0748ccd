"""Reading VQ checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..codecs import CodebookSet, VQWeight
from ..model import Source, VQModel
from .fields import FIELDS, Description, LayerRecord, from_metadata
from .header import Entry, FileHeader, read_header
from .layout import (
    Layout,
    check_layout,
    codebooks_name,
    dense_name,
    grid_name,
    piece_name,
    root_name,
)
from .refusal import refuse
from .values import check_finite, check_pieces, check_set

MAX_HEADER = 8 << 20
"""Bytes of header that a reader accepts; a writer aims at 1 MiB."""


@dataclass(frozen=True)
class Header:
    """What a VQ checkpoint says about itself, without its tensors.

    Attributes:
        path: of the file.
        description: the parsed fields.
        layout: entries by role.
        metadata: all strings of the header, those of others (ModelSpec, workflow) included.
    """

    path: Path
    description: Description
    layout: Layout
    metadata: dict[str, str]

    @property
    def layers(self) -> dict[str, LayerRecord]:
        """Coded layers by original name."""
        return self.description.layers

    @property
    def dense(self) -> dict[str, Entry]:
        """Tensors that are stored as they were, by original key."""
        return self.layout.dense

    @property
    def source(self) -> Source:
        """Where the weights came from; its root tensors are left to ``load``."""
        return self.description.source

    @property
    def plan(self) -> dict[str, Any]:
        return self.description.plan

    @property
    def version(self) -> str:
        return ".".join(map(str, self.description.version))

    @property
    def tool(self) -> str:
        return self.description.tool

    @property
    def numel(self) -> int:
        """Weights of the whole model, coded and dense."""
        coded = sum(record.numel for record in self.layers.values())
        return coded + sum(entry.numel for entry in self.dense.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the model: dense tensors, pieces, and each codebook set once."""
        entries = [e for pieces in self.layout.pieces.values() for e in pieces.values()]
        entries += [*self.dense.values(), *self.layout.codebooks.values()]
        grids = 2 * torch.float32.itemsize * len(self.layout.codebooks)
        return sum(entry.nbytes for entry in entries) + grids

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / max(1, self.numel)

    def spec(self, layer: str) -> Any:
        """How a layer was coded."""
        return self.description.codecs[self.layers[layer].codec]

    def layer_nbytes(self, layer: str) -> int:
        """Bytes of a layer's own pieces."""
        return sum(entry.nbytes for entry in self.layout.pieces[layer].values())


def is_vq(path: str | os.PathLike[str]) -> bool:
    """Whether a file calls itself a VQ checkpoint, of whatever version; reads only its header."""
    marker = f'"{FIELDS[0].key}"'.encode()
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return False
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER:
                return False
            # The field stands in the metadata, where only strings are values.
            return marker + b":" in file.read(length).replace(b" ", b"")
    except (OSError, ValueError):
        return False


def inspect(path: str | os.PathLike[str]) -> Header:
    """Read and check everything but the tensors.

    Raises:
        VQError: not a VQ checkpoint, a damaged one, or one that needs a newer comfy-vq.
    """
    file = read_header(path, MAX_HEADER)
    return check(file)


def check(file: FileHeader) -> Header:
    """The header of a file whose fields and tensors agree. Raises VQError if they do not."""
    description = from_metadata(file.path, file.metadata)
    return Header(file.path, description, check_layout(file, description), file.metadata)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> VQModel:
    """Read a VQ checkpoint; everything in its header is checked before any tensor is read.

    On a CPU the tensors are maps of the file, read when they are first used.

    Raises:
        VQError: see ``inspect``; or values are not what they must be (NaN or Inf in scales or in a
            dense tensor, for instance). Codes are not looked at: every code is a valid one.
    """
    header = inspect(path)
    try:
        with safe_open(header.path, "pt", device=str(device)) as file:
            return _model(header, file.get_tensor)
    except (OSError, SafetensorError) as error:
        refuse(path, "cannot be read", str(error), "a readable safetensors file")


def _model(header: Header, read: Callable[[str], Tensor]) -> VQModel:
    sets = {name: _codebook_set(header, name, read) for name in header.layout.codebooks}
    layers = {}
    for name, record in header.layers.items():
        tensors = {p: read(piece_name(name, p)) for p in header.layout.pieces[name]}
        check_pieces(header.path, name, tensors)
        shared = None if record.codebooks is None else sets[record.codebooks]
        layers[name] = VQWeight(header.spec(name), record.shape, record.dtype, tensors, shared)
    dense = {key: _finite(header, dense_name(key), read) for key in header.dense}
    root = {key: _finite(header, root_name(key), read) for key in header.layout.root}
    return VQModel(layers, dense, replace(header.source, root=root), header.plan)


def _finite(header: Header, name: str, read: Callable[[str], Tensor]) -> Tensor:
    tensor = read(name)
    check_finite(header.path, f"tensor {name}", tensor)
    return tensor


def _codebook_set(header: Header, name: str, read: Callable[[str], Tensor]) -> CodebookSet:
    codebooks, grid = read(codebooks_name(name)), read(grid_name(name))
    check_set(header.path, name, codebooks, grid)
    return CodebookSet.from_grid(name, codebooks, grid)
