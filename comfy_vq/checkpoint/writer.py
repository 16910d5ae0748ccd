"""Writing VQ checkpoints, and dense ones."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..codecs import CodebookSet, VQWeight
from ..model import Component, VQModel
from .components import FEATURE, ComponentRecord
from .fields import Description, LayerRecord, to_metadata
from .header import Entry, FileHeader
from .joined import joined, same_set
from .layout import codebooks_name, dense_name, grid_name, piece_name, root_name
from .modelspec import modelspec_fields
from .reader import MAX_HEADER, check
from .refusal import refuse
from .serialize import Stored, data_sha256, header_bytes, lay_out, write_file
from .values import check_finite, check_pieces, check_set

log = logging.getLogger(__name__)

HEADER_GOAL = 1 << 20
"""Bytes of header above which ComfyUI does not show a file's metadata."""
_EXPENDABLE = ("prompt", "workflow")
"""Left out, in this order, where the header would not fit."""


def save(
    path: str | os.PathLike[str],
    model: VQModel,
    *,
    components: Mapping[str, Component] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a VQ checkpoint, atomically; the same model gives the same bytes.

    Args:
        model: the diffusion model; an empty one for a file of components alone.
        components: what else the file shall hold, by name.
        extra: more strings for the header, such as ComfyUI's ``prompt`` and ``workflow``. Left out
            with a warning, ``prompt`` first, where the header would exceed 1 MiB with them.

    Raises:
        VQError: the model is not one that a reader would accept, or the file cannot be written.
            An earlier file at ``path`` stays as it was.
    """
    extra = dict(extra or {})
    reserved = sorted(k for k in extra if k.startswith(("vq.", "modelspec.")) or k == "format")
    if reserved:
        refuse(path, "extra metadata", reserved[0], "a name that is not reserved", "rename it")
    components = components or {}
    whole = joined(path, model, components)
    tensors = _stored(path, whole)
    entries = lay_out(path, tensors)
    titled = model if model.numel or not components else next(iter(components.values())).model
    spec = modelspec_fields(titled, data_sha256(path, tensors))
    description, extra = _fit(path, _describe(whole, components), spec, extra, entries)
    metadata = {**extra, **spec, **to_metadata(description)}
    _check(Path(path), whole, FileHeader(Path(path), entries, metadata))
    write_file(path, tensors, metadata)


def write_dense(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor | Stored],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an ordinary safetensors file, atomically.

    Args:
        tensors: by the key to write; a ``Stored`` is made only when its turn comes.

    Raises:
        VQError: a dtype that a file cannot hold, or the file cannot be written.
    """
    stored = {key: t if isinstance(t, Stored) else Stored.of(t) for key, t in tensors.items()}
    write_file(path, stored, {"format": "pt", **(metadata or {})})


def write_decoded(
    path: str | os.PathLike[str], model: VQModel, dtype: torch.dtype | None = None
) -> None:
    """Write the dense model that ``model`` decodes to, as its source was: with the prefix that was
    stripped, root-level keys and metadata. Decodes one layer at a time.

    Args:
        dtype: of the decoded weights; by default each layer's own.

    Raises:
        VQError: the file cannot be written.
    """
    prefix = model.source.prefix
    tensors = {prefix + key: Stored.of(tensor) for key, tensor in model.dense.items()}
    for name, weight in model.layers.items():
        tensors[f"{prefix}{name}.weight"] = _decoded(weight, dtype or weight.dtype)
    root = {key: Stored.of(tensor) for key, tensor in model.source.root.items()}
    write_dense(path, {**root, **tensors}, model.source.metadata)


def _decoded(weight: VQWeight, dtype: torch.dtype) -> Stored:
    return Stored(dtype, weight.shape, lambda: weight.decode(dtype))


def _stored(path: str | os.PathLike[str], model: VQModel) -> dict[str, Stored]:
    """Every tensor under its stored name."""
    stored: dict[str, Stored] = {}
    for name, tensor in _named(path, model):
        if name in stored:
            found, advice = "two that would be stored so", "rename the layer or key in the source"
            refuse(path, f"tensor {name}", found, "one", advice)
        stored[name] = Stored.of(tensor)
    return stored


def _named(path: str | os.PathLike[str], model: VQModel) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in model.dense.items():
        yield dense_name(key), tensor
    for key, tensor in model.source.root.items():
        yield root_name(key), tensor
    for layer, weight in model.layers.items():
        for piece, tensor in weight.tensors.items():
            yield piece_name(layer, piece), tensor
    for name, shared in _codebook_sets(path, model).items():
        yield codebooks_name(name), shared.codebooks
        yield grid_name(name), shared.grid


def _codebook_sets(path: str | os.PathLike[str], model: VQModel) -> dict[str, CodebookSet]:
    """The distinct sets. Raises VQError where one name stands for two."""
    sets: dict[str, CodebookSet] = {}
    for layer, weight in model.layers.items():
        shared = weight.codebooks
        if shared is None:
            continue
        known = sets.setdefault(shared.name, shared)
        if known is not shared and not same_set(known, shared):
            found = f"{shared.name!r}, which differs from another layer's set of this name"
            advice = "give every set a name of its own"
            refuse(path, f"layer {layer}, codebook set", found, "one set for each name", advice)
    return sets


def _check(path: Path, model: VQModel, file: FileHeader) -> None:
    """Refuse to write what a reader would refuse."""
    if len(header_bytes(file.entries, file.metadata)) > MAX_HEADER:
        found, expected = "more than a reader accepts", f"at most {MAX_HEADER} bytes"
        refuse(path, "header length", found, expected, "save with less extra metadata")
    check(file)
    for layer, weight in model.layers.items():
        check_pieces(path, layer, weight.tensors)
    for key, tensor in model.dense.items():
        check_finite(path, f"tensor {dense_name(key)}", tensor)
    for key, tensor in model.source.root.items():
        check_finite(path, f"tensor {root_name(key)}", tensor)
    for name, shared in _codebook_sets(path, model).items():
        check_set(path, name, shared.codebooks, shared.grid)


def _describe(model: VQModel, components: Mapping[str, Component]) -> Description:
    ids: dict[object, str] = {}
    counts: Counter[str] = Counter()
    layers = {}
    for name, weight in sorted(model.layers.items()):
        if weight.spec not in ids:
            counts[weight.codec] += 1
            ids[weight.spec] = f"{weight.codec}-{counts[weight.codec]}"
        shared = None if weight.codebooks is None else weight.codebooks.name
        layers[name] = LayerRecord(ids[weight.spec], tuple(weight.shape), weight.dtype, shared)
    specs = {id_: spec for spec, id_ in ids.items()}
    description = Description(layers, specs, model.plan, replace(model.source, root={}))
    if not components:
        return description
    records = {
        name: ComponentRecord(part.about, part.model.plan, replace(part.model.source, root={}))
        for name, part in components.items()
    }
    return replace(description, requires=(FEATURE,), components=records)


def _fit(
    path: str | os.PathLike[str],
    description: Description,
    spec: Mapping[str, str],
    extra: dict[str, str],
    entries: Mapping[str, Entry],
) -> tuple[Description, dict[str, str]]:
    """Leave out what can be spared until the header fits.

    The source's metadata may hold the workflow that the source was made by; it goes first.
    """

    def size() -> int:
        return len(header_bytes(entries, {**extra, **spec, **to_metadata(description)}))

    for key in _EXPENDABLE:
        for what, place in ((f"the source's {key}", description.source.metadata), (key, extra)):
            if key in place and size() > HEADER_GOAL:
                spared = {k: v for k, v in place.items() if k != key}
                if place is extra:
                    extra = spared
                else:
                    source = replace(description.source, metadata=spared)
                    description = replace(description, source=source)
                log.warning("%s: left out %s, or the header would exceed 1 MiB", path, what)
    if size() > HEADER_GOAL:
        log.warning("%s: the header exceeds 1 MiB; ComfyUI will not show its metadata", path)
    return description, extra
