"""The demo's table, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .measure import TIMESTEPS, Alignment

_HEADINGS = (
    "model",
    "bits/weight",
    "MB",
    "noise SQNR dB",
    "latent PSNR dB",
    "colour",
    "shape",
    "position",
    "scene",
    "quantize s",
    "sample s",
)


@dataclass(frozen=True)
class Row:
    """One model's figures; None where the dense model has none.

    Attributes:
        name: "dense" or such as "VQ3".
        bits: per weight, everything stored counted.
        megabytes: of the file on disk, in 10^6 bytes.
        noise_sqnr_db: of predicted noise against the dense model's, over all probes.
        noise_sqnr_by_timestep_db: the same at each of `measure.TIMESTEPS`.
        latent_psnr_db: of the same seeds' final latents against the dense model's.
        alignment: of all pictures sampled.
        quantize_seconds, sample_seconds: for the file, for all pictures.
    """

    name: str
    bits: float
    megabytes: float
    alignment: Alignment
    sample_seconds: float
    noise_sqnr_db: float | None = None
    noise_sqnr_by_timestep_db: tuple[float, ...] | None = None
    latent_psnr_db: float | None = None
    quantize_seconds: float | None = None


def to_text(rows: Sequence[Row]) -> str:
    """A Markdown table, aligned so that it reads well as it is."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEADINGS))]

    def line(values: Sequence[str]) -> str:
        padded = [values[0].ljust(widths[0])]
        padded += [v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def to_json(rows: Sequence[Row], about: dict[str, Any]) -> dict[str, Any]:
    """The same figures unrounded, with what they were measured on."""
    return {**about, "timesteps": TIMESTEPS, "models": [asdict(row) for row in rows]}


def _cells(row: Row) -> tuple[str, ...]:
    aligned = row.alignment
    return (
        row.name,
        f"{row.bits:.2f}",
        f"{row.megabytes:.1f}",
        _number(row.noise_sqnr_db),
        _number(row.latent_psnr_db),
        *(f"{s:.0%}" for s in (aligned.colour, aligned.shape, aligned.position, aligned.scene)),
        _number(row.quantize_seconds),
        _number(row.sample_seconds),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
