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
from ..model import Component, Source, VQModel
from .fields import Description, LayerRecord, from_metadata
from .header import Entry, FileHeader, read_header
from .layout import (
    Layout,
    check_layout,
    codebooks_name,
    component_prefix,
    dense_name,
    grid_name,
    piece_name,
    root_key,
)
from .parts import split
from .refusal import refuse
from .values import check_finite, check_pieces, check_set

MAX_HEADER = 8 << 20
"""Bytes of header that a reader accepts; a writer aims at 1 MiB."""


@dataclass(frozen=True)
class Part:
    """What a file says about one of the models that it holds, without its tensors.

    Attributes:
        path: of the file.
        name: of a component; empty for the diffusion model.
        codecs: specifications by id.
        layers: coded layers by original name.
        layout: entries by role.
        source: where the weights came from; its root tensors are left to ``load``.
        plan: how bits were allotted.
        about: of a component, what a host has to know to build it again.
    """

    path: Path
    name: str
    codecs: dict[str, Any]
    layers: dict[str, LayerRecord]
    layout: Layout
    source: Source
    plan: dict[str, Any]
    about: dict[str, str]

    @property
    def dense(self) -> dict[str, Entry]:
        """Tensors that are stored as they were, by original key."""
        return self.layout.dense

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
        return self.codecs[self.layers[layer].codec]

    def layer_nbytes(self, layer: str) -> int:
        """Bytes of a layer's own pieces."""
        return sum(entry.nbytes for entry in self.layout.pieces[layer].values())


@dataclass(frozen=True)
class Header(Part):
    """What a VQ checkpoint says about itself: its diffusion model, and what else it holds.

    Attributes:
        description: the parsed fields.
        metadata: all strings of the header, those of others (ModelSpec, workflow) included.
        components: the others by name.
    """

    description: Description
    metadata: dict[str, str]
    components: dict[str, Part]

    @property
    def version(self) -> str:
        return ".".join(map(str, self.description.version))

    @property
    def tool(self) -> str:
        return self.description.tool


def inspect(path: str | os.PathLike[str]) -> Header:
    """Read and check everything but the tensors.

    Raises:
        VQError: not a VQ checkpoint, a damaged one, or one that needs a newer comfy-vq.
    """
    file = read_header(path, MAX_HEADER)
    return check(file)


def check(file: FileHeader) -> Header:
    """The header of a file whose fields and tensors agree. Raises VQError if they do not."""
    found = from_metadata(file.path, file.metadata)
    layouts = split(file, found, check_layout(file, found))
    components = {
        name: Part(
            file.path, name, found.codecs, *layouts[name], record.source, record.plan, record.about
        )
        for name, record in found.components.items()
    }
    model = (file.path, "", found.codecs, *layouts[""], found.source, found.plan, {})
    return Header(*model, found, file.metadata, components)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> VQModel:
    """Read the diffusion model of a VQ checkpoint, and nothing else that the file may hold.

    Everything in the header is checked before any tensor is read. On a CPU the tensors are maps of
    the file, read when they are first used.

    Raises:
        VQError: see ``inspect``; the file holds no diffusion model; or values are not what they must
            be (NaN or Inf in scales or in a dense tensor, for instance). Codes are not looked at:
            every code is a valid one.
    """
    header = inspect(path)
    if header.components and not header.numel:
        held = ", ".join(header.components)
        refuse(path, "file", held, "a diffusion model", "load it with Load VQ CLIP")
    return _read(header, device)


def load_component(
    path: str | os.PathLike[str], name: str, device: torch.device | str = "cpu"
) -> Component:
    """Read one component of a VQ checkpoint as ``load`` reads the diffusion model.

    Raises:
        VQError: as ``load``; or the file holds no such component.
    """
    header = inspect(path)
    part = header.components.get(name)
    if part is None:
        held = ["a diffusion model"] * bool(header.numel) + list(header.components)
        advice = f"choose a file with {name}"
        refuse(path, f"component {name}", " and ".join(held), f"a file that holds {name}", advice)
    return Component(_read(part, device), part.about)


def _read(part: Part, device: torch.device | str) -> VQModel:
    try:
        with safe_open(part.path, "pt", device=str(device)) as file:
            return _model(part, file.get_tensor)
    except (OSError, SafetensorError) as error:
        refuse(part.path, "cannot be read", str(error), "a readable safetensors file")


def _model(part: Part, read: Callable[[str], Tensor]) -> VQModel:
    prefix = component_prefix(part.name)
    sets = {name: _codebook_set(part, name, read) for name in part.layout.codebooks}
    layers = {}
    for name, record in part.layers.items():
        tensors = {p: read(piece_name(prefix + name, p)) for p in part.layout.pieces[name]}
        check_pieces(part.path, prefix + name, tensors)
        shared = None if record.codebooks is None else sets[record.codebooks]
        layers[name] = VQWeight(part.spec(name), record.shape, record.dtype, tensors, shared)
    dense = {key: _finite(part, dense_name(prefix + key), read) for key in part.dense}
    root = {k: _finite(part, dense_name(prefix + root_key(k)), read) for k in part.layout.root}
    return VQModel(layers, dense, replace(part.source, root=root), part.plan)


def _finite(part: Part, name: str, read: Callable[[str], Tensor]) -> Tensor:
    tensor = read(name)
    check_finite(part.path, f"tensor {name}", tensor)
    return tensor


def _codebook_set(part: Part, name: str, read: Callable[[str], Tensor]) -> CodebookSet:
    codebooks, grid = read(codebooks_name(name)), read(grid_name(name))
    check_set(part.path, name, codebooks, grid)
    return CodebookSet.from_grid(name, codebooks, grid)
