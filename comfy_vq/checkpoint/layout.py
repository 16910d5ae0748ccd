"""Which tensors a VQ checkpoint holds: their names, and the check that they are what the fields say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .. import codecs
from ..errors import VQError
from .fields import Description
from .header import NAMES, Entry, FileHeader
from .refusal import plain, refuse

PREFIX = "vq."
"""What every tensor name begins with, so that no other loader takes the file for a dense model."""
_CODEBOOKS = "codebooks."
ROOT = "root."
COMPONENTS = "components."
"""What names of layers and keys of components begin with."""
RESERVED = (_CODEBOOKS, ROOT, COMPONENTS)
"""How no dense tensor's original key may begin."""
_GRID = ".grid"


def dense_name(key: str) -> str:
    """Stored name of a tensor that is kept as it is."""
    return f"{PREFIX}{key}"


def piece_name(layer: str, piece: str) -> str:
    """Stored name of a piece of a coded layer."""
    return f"{PREFIX}{layer}.{piece}"


def codebooks_name(name: str) -> str:
    """Stored name of the entries of a codebook set."""
    return f"{PREFIX}{_CODEBOOKS}{name}"


def grid_name(name: str) -> str:
    """Stored name of step and offset of a codebook set."""
    return codebooks_name(name) + _GRID


def root_name(key: str) -> str:
    """Stored name of a root-level key by which the source describes itself."""
    return f"{PREFIX}{root_key(key)}"


def root_key(key: str) -> str:
    """A root-level key among the other keys of a model."""
    return f"{ROOT}{key}"


def component_prefix(name: str) -> str:
    """What names of a component's layers and keys begin with; empty for the diffusion model."""
    return f"{COMPONENTS}{name}." if name else ""


@dataclass(frozen=True)
class Layout:
    """The tensors of a checked file by role; all names without their prefixes.

    Attributes:
        pieces: layer -> piece -> entry.
        codebooks: set -> entry of its entries; the grid lies under ``grid_name``.
        dense: original key -> entry.
        root: root-level key -> entry.
    """

    pieces: dict[str, dict[str, Entry]]
    codebooks: dict[str, Entry]
    dense: dict[str, Entry]
    root: dict[str, Entry]


def check_layout(file: FileHeader, description: Description) -> Layout:
    """Find the tensor behind everything that the fields announce, and nothing besides.

    Raises:
        VQError: a tensor is missing, of another dtype or shape, or of no use; a layer refers to an
            unknown codec id or set, or to a set of the wrong shape.
    """
    taken: set[str] = set()

    def take(where: str, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Entry:
        entry = file.entries.get(name)
        if entry is None:
            refuse(file.path, where, f"no tensor {name}", f"{NAMES[dtype]} {list(shape)}")
        if (entry.dtype, entry.shape) != (dtype, shape):
            found = f"{NAMES[entry.dtype]} {list(entry.shape)} in tensor {name}"
            refuse(file.path, where, found, f"{NAMES[dtype]} {list(shape)}")
        taken.add(name)
        return entry

    pieces = {
        layer: {
            name: take(f"layer {layer}", piece_name(layer, name), dtype, shape)
            for name, dtype, shape in _pieces(file, description, layer)
        }
        for layer in description.layers
    }
    books = {}
    for name, (layer, shape) in _sets(file, description).items():
        where = f"layer {layer}, codebook set {name!r}"
        books[name] = take(where, codebooks_name(name), torch.uint8, shape)
        take(where, grid_name(name), torch.float32, (2,))
    dense, root = {}, {}
    for name in file.entries.keys() - taken:
        key = name.removeprefix(PREFIX)
        if key == name or key.startswith(_CODEBOOKS):
            what = "no field mentions" if key != name else f"has no prefix {PREFIX}"
            refuse(
                file.path, "tensors", f"{name}, which {what}", "tensors that the fields announce"
            )
        (root if key.startswith(ROOT) else dense)[key.removeprefix(ROOT)] = file.entries[name]
    doubles = sorted(f"{layer}.weight" for layer in pieces if f"{layer}.weight" in dense)
    if doubles:
        refuse(
            file.path, f"tensor {doubles[0]}", "the layer both coded and dense", "one of the two"
        )
    return Layout(pieces, dict(sorted(books.items())), dict(sorted(dense.items())), root)


def _pieces(
    file: FileHeader, description: Description, layer: str
) -> Iterator[tuple[str, torch.dtype, tuple[int, ...]]]:
    record = description.layers[layer]
    spec = description.codecs.get(record.codec)
    if spec is None:
        known = ", ".join(description.codecs) or "none"
        refuse(
            file.path,
            f"layer {layer}, codec id",
            repr(record.codec),
            f"an id in vq.codecs: {known}",
        )
    codec = codecs.get(spec.codec)
    if not codec.supports(record.shape):
        refuse(
            file.path,
            f"layer {layer}, shape",
            str(list(record.shape)),
            f"one of codec {codec.name}",
        )
    try:
        declared = codec.pieces(spec, record.shape)
    except VQError as error:
        raise VQError(f"{file.path}: {plain(f'layer {layer}')}: {plain(str(error))}") from error
    for name, piece in declared.items():
        yield name, piece.dtype, piece.shape


def _sets(file: FileHeader, description: Description) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every set that is used: a layer that uses it, for messages, and the shape it must have."""
    sets: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer, record in description.layers.items():
        spec = description.codecs[record.codec]
        shape = codecs.get(spec.codec).codebook_shape(spec)
        where, name = f"layer {layer}, codebook set", record.codebooks
        if (name is None) != (shape is None):
            needed = "null" if shape is None else "the name of a set"
            refuse(file.path, where, repr(name), f"{needed}, as codec {spec.codec} asks for")
        if name is None or shape is None:
            continue
        if not name or name.endswith(_GRID):
            refuse(file.path, where, repr(name), f"a name that does not end in {_GRID}")
        other, known = sets.setdefault(name, (layer, tuple(shape)))
        if known != tuple(shape):
            found = f"{name!r} of shape {list(known)}, as layer {other} has it"
            refuse(file.path, where, found, f"a set of shape {list(shape)}")
    return sets
