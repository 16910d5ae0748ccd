"""Where the weights of a model came from, as a header tells it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..model import Source
from .refusal import refuse
from .serialize import compact_json
from .strict_json import parse_object


def source_text(source: Source) -> str:
    """The JSON of ``vq.source``."""
    return compact_json(source_record(source))


def parse_source(path: Path, key: str, text: str) -> Source:
    """The inverse of ``source_text``. Raises VQError for anything else."""
    return source_of(path, key, parse_object(path, key, text))


def source_record(source: Source) -> dict[str, Any]:
    """A source as JSON values; its root tensors are stored as tensors."""
    return {
        "name": source.name,
        "sha256": source.sha256,
        "prefix": source.prefix,
        "metadata": dict(sorted(source.metadata.items())),
    }


def source_of(path: Path, where: str, record: Any) -> Source:
    """The inverse of ``source_record``. Raises VQError for anything else."""
    if not isinstance(record, dict):
        refuse(path, where, str(record), "an object")
    sha256, metadata = record.get("sha256"), record.get("metadata")
    for name in ("name", "prefix"):
        if not isinstance(record.get(name), str):
            refuse(path, f"{where}, field {name}", repr(record.get(name)), "a string")
    if sha256 is not None and not isinstance(sha256, str):
        refuse(path, f"{where}, field sha256", repr(sha256), "a string or null")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        refuse(path, f"{where}, field metadata", str(metadata), "an object of strings")
    return Source(record["name"], sha256, record["prefix"], metadata, {})
