"""The metadata fields of a VQ checkpoint: one table that the reader and the writer share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import __version__, codecs
from ..errors import VQError
from ..model import Source
from .components import FEATURE, ComponentRecord, components_text, parse_components
from .header import DTYPES, NAMES
from .refusal import QUANTIZE_AGAIN, plain, refuse
from .serialize import compact_json
from .source import parse_source, source_text
from .strict_json import parse_json, parse_object

VERSION = (1, 0)
"""Major and minor version of the format that is written."""
FEATURES = frozenset({FEATURE})
"""Names that may stand in ``vq.requires``: what a reader must know beyond version 1.0."""


@dataclass(frozen=True)
class LayerRecord:
    """What the header says about a coded layer.

    Attributes:
        codec: id of an entry of ``vq.codecs``.
        shape: logical shape, ``[out, in]`` or ``[out, in, *kernel]``.
        dtype: of the weight that was coded.
        codebooks: name of the codebook set, or None.
    """

    codec: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    codebooks: str | None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Description:
    """The parsed metadata. ``codecs`` maps ids to specifications of registered codecs."""

    layers: dict[str, LayerRecord]
    codecs: dict[str, Any]
    plan: dict[str, Any]
    source: Source
    tool: str = f"comfy-vq {__version__}"
    version: tuple[int, int] = VERSION
    requires: tuple[str, ...] = ()
    components: dict[str, ComponentRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """One metadata field.

    Attributes:
        key: in the header.
        attribute: of ``Description``.
        to_text: from the attribute's value.
        from_text: back; is given the file's path and the key for its messages.
        feature: the name in ``vq.requires`` with which the field comes; empty for every file.
    """

    key: str
    attribute: str
    to_text: Callable[[Any], str]
    from_text: Callable[[Path, str, str], Any]
    feature: str = ""

    def belongs_to(self, requires: Sequence[str]) -> bool:
        """Whether a file that requires these features has the field."""
        return not self.feature or self.feature in requires


def to_metadata(description: Description) -> dict[str, str]:
    """The ``vq.*`` strings of the header, and the ``format`` that loaders expect."""
    fields = [f for f in FIELDS if f.belongs_to(description.requires)]
    values = {f.key: f.to_text(getattr(description, f.attribute)) for f in fields}
    return {"format": "pt", **values}


def from_metadata(path: Path, metadata: Mapping[str, str]) -> Description:
    """The inverse of ``to_metadata``.

    Raises:
        VQError: a field is missing or wrong, or the file needs a newer comfy-vq.
    """
    if FIELDS[0].key not in metadata:
        refuse(
            path,
            "not a VQ checkpoint",
            f"a header without the field {FIELDS[0].key}",
            "a file that VQ Quantize Model and Save VQ Checkpoint, or comfy-vq quantize, made",
            "load it with UNETLoader or CheckpointLoaderSimple, or quantize it first",
        )
    values: dict[str, Any] = {}
    for f in FIELDS:
        if not f.belongs_to(values.get("requires", ())):
            continue
        if f.key not in metadata:
            what = f"every VQ checkpoint with {f.feature}" if f.feature else "every VQ checkpoint"
            refuse(path, f.key, "nothing", f"this field, which {what} has")
        values[f.attribute] = f.from_text(path, f.key, metadata[f.key])
    return Description(**values)


def _version(path: Path, key: str, text: str) -> tuple[int, int]:
    numbers = text.split(".")
    if len(numbers) != 2 or not all(n.isascii() and n.isdigit() and len(n) < 6 for n in numbers):
        refuse(path, key, repr(text), "major.minor, such as 1.0")
    major, minor = int(numbers[0]), int(numbers[1])
    if major != VERSION[0]:
        what = "update comfy-vq" if major > VERSION[0] else "quantize again"
        refuse(path, key, text, f"{VERSION[0]}.x", what)
    return major, minor


def _requires(path: Path, key: str, text: str) -> tuple[str, ...]:
    features = parse_json(path, key, text)
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        refuse(path, key, text, "a JSON list of strings")
    unknown = sorted(set(features) - FEATURES)
    if unknown:
        known = ", ".join(sorted(FEATURES)) or "none"
        refuse(path, key, ", ".join(unknown), f"features known here: {known}", "update comfy-vq")
    return tuple(features)


def _codecs_text(specs: Mapping[str, Any]) -> str:
    records = {}
    for id_, spec in specs.items():
        codec = codecs.get(spec.codec)
        about = {"name": codec.name, "version": codec.version}
        records[id_] = {**about, **codec.to_record(spec)}
    return compact_json(records)


def _codecs(path: Path, key: str, text: str) -> dict[str, Any]:
    return {
        id_: _spec(path, f"{key}, id {id_}", r) for id_, r in parse_object(path, key, text).items()
    }


def _spec(path: Path, where: str, record: Any) -> Any:
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        refuse(path, where, str(record), "an object with a codec's name and version")
    fields = dict(record)
    name, version = fields.pop("name"), fields.pop("version", None)
    if type(version) is not int or version < 1:
        refuse(path, f"{where}, field version", repr(version), "a number from 1")
    if name not in codecs.names():
        known = ", ".join(codecs.names())
        refuse(path, where, f"unknown codec {name!r}", f"one of {known}", "update comfy-vq")
    codec = codecs.get(name)
    if version > codec.version:
        found, expected = f"{version} of codec {name}", f"at most {codec.version}"
        refuse(path, f"{where}, field version", found, expected, "update comfy-vq")
    try:
        return codec.from_record(fields)
    except VQError as error:
        problem = plain(str(error))
        advice = "" if ";" in problem else f"; {QUANTIZE_AGAIN}"
        raise VQError(f"{path}: {plain(where)}: {problem}{advice}") from error


def _layers_text(layers: Mapping[str, LayerRecord]) -> str:
    return compact_json(
        {
            name: [r.codec, list(r.shape), NAMES[r.dtype], r.codebooks]
            for name, r in sorted(layers.items())
        }
    )


def _layers(path: Path, key: str, text: str) -> dict[str, LayerRecord]:
    records = parse_object(path, key, text)
    return {name: _layer(path, f"layer {name}, field {key}", r) for name, r in records.items()}


def _layer(path: Path, where: str, record: Any) -> LayerRecord:
    if not isinstance(record, list) or len(record) != 4:
        refuse(path, where, str(record), "[codec id, shape, dtype, codebook set or null]")
    codec, shape, dtype, codebooks = record
    if not isinstance(codec, str):
        refuse(path, f"{where}, codec id", repr(codec), "a string")
    if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 2**32 for n in shape):
        refuse(path, f"{where}, shape", repr(shape), "a list of sizes from 1 to 2**32 - 1")
    if not isinstance(dtype, str) or dtype not in DTYPES or not DTYPES[dtype].is_floating_point:
        floats = [n for n, d in DTYPES.items() if d.is_floating_point]
        refuse(path, f"{where}, dtype", repr(dtype), f"one of {', '.join(floats)}")
    if codebooks is not None and not isinstance(codebooks, str):
        refuse(path, f"{where}, codebook set", repr(codebooks), "a name or null")
    return LayerRecord(codec, tuple(shape), DTYPES[dtype], codebooks)


def _text(path: Path, key: str, text: str) -> str:
    return text


FIELDS = (
    Field("vq.version", "version", lambda v: f"{v[0]}.{v[1]}", _version),
    Field("vq.requires", "requires", lambda v: compact_json(list(v)), _requires),
    Field("vq.codecs", "codecs", _codecs_text, _codecs),
    Field("vq.layers", "layers", _layers_text, _layers),
    Field("vq.plan", "plan", compact_json, parse_object),
    Field("vq.source", "source", source_text, parse_source),
    Field("vq.tool", "tool", str, _text),
    Field("vq.components", "components", components_text, parse_components, FEATURE),
)
"""Every metadata field, in the order in which a reader checks them: versions before contents."""
