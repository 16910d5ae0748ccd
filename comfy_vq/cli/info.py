"""`info`: what a VQ file holds, from its header alone."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from .. import checkpoint, codecs
from ..checkpoint import Header


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
    source = header.source
    return {
        "file": str(header.path),
        "file_bytes": header.path.stat().st_size,
        "format": header.version,
        "tool": header.tool,
        "weights": header.numel,
        "bytes": header.nbytes,
        "bits_per_weight": header.bits_per_weight,
        "plan": header.plan,
        "source": {
            "name": source.name,
            "sha256": source.sha256,
            "prefix": source.prefix,
            "metadata": source.metadata,
        },
        "layers": {name: _layer(header, name) for name in header.layers},
        "dense": {
            key: {"shape": list(entry.shape), "dtype": _dtype(entry.dtype), "bytes": entry.nbytes}
            for key, entry in header.dense.items()
        },
    }


def to_text(header: Header) -> str:
    """The same for people: totals, then a line per layer."""
    source = header.source
    dense_bytes = sum(entry.nbytes for entry in header.dense.values())
    dense_numel = sum(entry.numel for entry in header.dense.values())
    lines = [
        (
            f"file    {header.path}: {_megabytes(header.path.stat().st_size)}, "
            f"format {header.version}, by {header.tool}"
        ),
        (
            f"model   {header.numel / 1e6:.2f} M weights in {_megabytes(header.nbytes)}: "
            f"{header.bits_per_weight:.3f} bits per weight, everything counted"
        ),
        (
            f"dense   {len(header.dense)} tensors, {dense_numel / 1e6:.2f} M weights in "
            f"{_megabytes(dense_bytes)}"
        ),
        f"source  {source.name or 'unknown'}, sha256 {source.sha256 or 'unknown'}"
        + (f", keys began with {source.prefix}" if source.prefix else ""),
        f"plan    {_plan(header.plan)}",
        "",
    ]
    rows = [("layer", "shape", "coded as", "bits/weight")]
    for name, layer in to_json(header)["layers"].items():
        shape = " x ".join(map(str, layer["shape"]))
        rows.append((name, shape, _coded_as(layer), f"{layer['bits_per_weight']:.3f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join(lines)


def _layer(header: Header, name: str) -> dict[str, Any]:
    record, spec = header.layers[name], header.spec(name)
    codec = codecs.get(spec.codec)
    return {
        "shape": list(record.shape),
        "dtype": _dtype(record.dtype),
        "codec": codec.name,
        **codec.to_record(spec),
        "set": record.codebooks,
        "bytes": header.layer_nbytes(name),
        "bits_per_weight": 8 * header.layer_nbytes(name) / math.prod(record.shape),
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
