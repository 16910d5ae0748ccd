"""`info`: what a VQ file holds, from its header alone."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from .. import checkpoint, codecs
from ..checkpoint import Header, Part


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("info", help="show what a VQ file holds, and where it came from")
    parser.add_argument("file", type=Path, metavar="FILE", help="a VQ checkpoint")
    parser.add_argument("--json", action="store_true", help="for programs: one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    header = checkpoint.inspect(args.file)
    print(json.dumps(to_json(header), indent=1) if args.json else to_text(header))


def to_json(header: Header) -> dict[str, Any]:
    """All that the header says, as JSON values; sizes in bytes."""
    components = {
        name: {"about": part.about, **_part(part)} for name, part in header.components.items()
    }
    return {
        "file": str(header.path),
        "file_bytes": header.path.stat().st_size,
        "format": header.version,
        "tool": header.tool,
        **_part(header),
        **({"components": components} if components else {}),
    }


def to_text(header: Header) -> str:
    """The same for people: totals, then a line per layer; for each model that the file holds."""
    lines = [
        (
            f"file    {header.path}: {_megabytes(header.path.stat().st_size)}, "
            f"format {header.version}, by {header.tool}"
        )
    ]
    if header.numel or not header.components:
        lines += _described("model", header)
    for name, part in header.components.items():
        facts = ", ".join(f"{key} {value}" for key, value in part.about.items())
        lines += ["", *_described(name, part, facts)]
    return "\n".join(lines)


def _described(name: str, part: Part, facts: str = "") -> list[str]:
    source = part.source
    dense_bytes = sum(entry.nbytes for entry in part.dense.values())
    dense_numel = sum(entry.numel for entry in part.dense.values())
    lines = [
        (
            f"{name:<7} {part.numel / 1e6:.2f} M weights in {_megabytes(part.nbytes)}: "
            f"{part.bits_per_weight:.3f} bits per weight, everything counted"
        ),
        *([f"about   {facts}"] if facts else []),
        (
            f"dense   {len(part.dense)} tensors, {dense_numel / 1e6:.2f} M weights in "
            f"{_megabytes(dense_bytes)}"
        ),
        f"source  {source.name or 'unknown'}, sha256 {source.sha256 or 'unknown'}"
        + (f", keys began with {source.prefix}" if source.prefix else ""),
    ]
    if part.plan or not part.name:
        lines.append(f"plan    {_plan(part.plan)}")
    if not part.layers:
        return lines
    rows = [("layer", "shape", "coded as", "bits/weight")]
    for layer_name in part.layers:
        layer = _layer(part, layer_name)
        shape = " x ".join(map(str, layer["shape"]))
        rows.append((layer_name, shape, _coded_as(layer), f"{layer['bits_per_weight']:.3f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return [*lines, "", *table]


def _part(part: Part) -> dict[str, Any]:
    source = part.source
    return {
        "weights": part.numel,
        "bytes": part.nbytes,
        "bits_per_weight": part.bits_per_weight,
        "plan": part.plan,
        "source": {
            "name": source.name,
            "sha256": source.sha256,
            "prefix": source.prefix,
            "metadata": source.metadata,
        },
        "layers": {name: _layer(part, name) for name in part.layers},
        "dense": {
            key: {"shape": list(entry.shape), "dtype": _dtype(entry.dtype), "bytes": entry.nbytes}
            for key, entry in part.dense.items()
        },
    }


def _layer(part: Part, name: str) -> dict[str, Any]:
    record, spec = part.layers[name], part.spec(name)
    codec = codecs.get(spec.codec)
    return {
        "shape": list(record.shape),
        "dtype": _dtype(record.dtype),
        "codec": codec.name,
        **codec.to_record(spec),
        "set": record.codebooks,
        "bytes": part.layer_nbytes(name),
        "bits_per_weight": 8 * part.layer_nbytes(name) / math.prod(record.shape),
    }


def _coded_as(layer: dict[str, Any]) -> str:
    return layer["codec"] if layer["set"] is None else f"{layer['codec']}, {layer['set']}"


def _plan(plan: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in plan.items()
    )


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"
