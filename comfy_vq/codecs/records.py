"""How codecs describe themselves in a file: what they share of writing and checking it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..errors import VQError
from ..kernels import Rotation


def check_fields(
    codec: str, record: Mapping[str, Any], allowed: Mapping[str, Collection[Any]]
) -> None:
    """Raise VQError unless a record has these fields, ``rotation`` besides, and allowed values."""
    expected = {*allowed, "rotation"}
    if set(record) != expected:
        raise VQError(
            f"codec {codec}: found fields {sorted(record)}, expected {sorted(expected)}; "
            "update comfy-vq or quantize again"
        )
    for field, values in allowed.items():
        if type(record[field]) not in (int, str) or record[field] not in values:
            raise VQError(
                f"codec {codec}, field {field}: found {record[field]!r}, expected one of "
                f"{list(values)}; update comfy-vq or quantize again"
            )


def rotation_record(rotation: Rotation | None) -> dict[str, int] | None:
    """A rotation as JSON values."""
    return None if rotation is None else {"block": rotation.block, "seed": rotation.seed}


def rotation_from(codec: str, record: Any) -> Rotation | None:
    """The inverse of ``rotation_record``. Raises VQError that names a bad field."""
    if record is None:
        return None
    if not isinstance(record, dict) or set(record) != {"block", "seed"}:
        raise VQError(
            f"codec {codec}, field rotation: found {record!r}, expected null or block and seed; "
            "quantize again"
        )
    block, seed = record["block"], record["seed"]
    if type(block) is not int or not 2 <= block <= 1024 or block & (block - 1):
        raise VQError(
            f"codec {codec}, field rotation.block: found {block!r}, expected a power of two "
            "from 2 to 1024; quantize again"
        )
    if type(seed) is not int or not 0 <= seed < 2**64:
        raise VQError(
            f"codec {codec}, field rotation.seed: found {seed!r}, expected a whole number from 0 "
            "to 2**64 - 1; quantize again"
        )
    return Rotation(block, seed)
