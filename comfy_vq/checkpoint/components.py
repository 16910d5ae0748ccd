"""What a file holds beside a diffusion model, as its header tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model import Source
from .refusal import refuse
from .serialize import compact_json
from .source import source_of, source_record
from .strict_json import parse_object

FEATURE = "components"
"""The name in ``vq.requires`` of files that hold components: a reader that does not know it would take
their tensors for the diffusion model's."""
NAME = re.compile("[a-z0-9_]+")
"""What a component may be called."""


@dataclass(frozen=True)
class ComponentRecord:
    """What the header says about a component; see ``model.Component``."""

    about: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    source: Source = field(default_factory=Source)


def components_text(components: Mapping[str, ComponentRecord]) -> str:
    """The JSON of ``vq.components``."""
    return compact_json(
        {
            name: {
                "about": dict(sorted(record.about.items())),
                "plan": record.plan,
                "source": source_record(record.source),
            }
            for name, record in sorted(components.items())
        }
    )


def parse_components(path: Path, key: str, text: str) -> dict[str, ComponentRecord]:
    """The inverse of ``components_text``. Raises VQError for anything else."""
    records = parse_object(path, key, text)
    if not records:
        refuse(path, key, "no component", "at least one in a file that requires them")
    return {name: _record(path, key, name, record) for name, record in records.items()}


def _record(path: Path, key: str, name: str, record: Any) -> ComponentRecord:
    where = f"{key}, component {name}"
    if not NAME.fullmatch(name):
        refuse(path, key, repr(name), "names of a-z, 0-9 and _")
    if not isinstance(record, dict):
        refuse(path, where, str(record), "an object of about, plan and source")
    about, plan = record.get("about"), record.get("plan")
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        refuse(path, f"{where}, field about", str(about), "an object of strings")
    if not isinstance(plan, dict):
        refuse(path, f"{where}, field plan", str(plan), "an object")
    return ComponentRecord(
        about, plan, source_of(path, f"{where}, field source", record.get("source"))
    )
