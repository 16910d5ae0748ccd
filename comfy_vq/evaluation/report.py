"""The report, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .figures import FLOOR, Figures
from .intervals import CONFIDENCE, Interval

_WORST = 10
_NONE = "-"


@dataclass(frozen=True)
class Report:
    """All figures, and what they were measured on.

    Attributes:
        host: and its version.
        torch: its version.
        prompts, seeds: of the bench.
        timesteps: that were recorded, in the order of each ``by_timestep_db``.
        failures: why candidates could not be measured, by name.
        note: what a reader of the figures should know besides.
    """

    host: str
    torch: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    timesteps: tuple[float, ...]
    reference: Figures
    candidates: tuple[Figures, ...]
    failures: Mapping[str, str]
    note: str | None = None


def to_table(report: Report) -> str:
    """Markdown, a row for each model, aligned so that it reads well as it is."""
    models = (report.reference, *report.candidates)
    columns = [(heading, [cell(model) for model in models]) for heading, cell in _columns(models)]
    shown = [(h, cells) for h, cells in columns if any(cell != _NONE for cell in cells)]
    rows = zip(*(cells for _, cells in shown), strict=True)
    return aligned([tuple(h for h, _ in shown), *rows])


def to_markdown(report: Report) -> str:
    """The table, each candidate's worst layers, and what could not be measured."""
    about = (
        f"Measured in {report.host} with torch {report.torch}, {len(report.prompts)} prompts, "
        f"{len(report.timesteps)} recorded steps. Everything is relative to "
        f"{report.reference.name}; ± is half of the {CONFIDENCE:.0%} interval over prompts."
    )
    parts = ["# Quality report", about, *([report.note] if report.note else []), to_table(report)]
    if report.failures:
        lines = [f"* {name}: {reason}" for name, reason in report.failures.items()]
        parts += ["## Not measured", "\n".join(lines)]
    for model in report.candidates:
        if model.layer_nmse and model.name != FLOOR:
            parts += [f"## Worst layers of {model.name}", _worst(model.layer_nmse)]
    return "\n\n".join(parts) + "\n"


def to_json(report: Report) -> str:
    """Every figure unrounded; what is infinite or not a number is a string, such as "inf"."""
    plain = asdict(report)
    for stored, model in zip(
        (plain["reference"], *plain["candidates"]),
        (report.reference, *report.candidates),
        strict=True,
    ):
        stored["size"]["bits_per_weight"] = model.size.bits_per_weight
    return json.dumps(_finite(plain), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


_Column = tuple[str, Callable[[Figures], str]]


def _columns(models: Sequence[Figures]) -> list[_Column]:
    """Headings, and how to fill a cell."""
    judged = {name: None for model in models for name in model.judged or {}}
    extra = {name: None for model in models for name in model.extra}
    return [
        ("model", lambda m: m.name),
        ("bits/weight", lambda m: f"{m.size.bits_per_weight:.2f}"),
        ("MB", lambda m: f"{m.megabytes:.1f}"),
        ("noise SQNR dB", lambda m: _with_margin(m.noise.sqnr_db) if m.noise else _NONE),
        ("latent PSNR dB", lambda m: f"{m.latents.psnr_db.value:.1f}" if m.latents else _NONE),
        ("rel. L2", lambda m: f"{m.latents.relative_l2.value:.4f}" if m.latents else _NONE),
        ("cosine", lambda m: f"{m.latents.cosine.value:.5f}" if m.latents else _NONE),
        ("picture PSNR dB", lambda m: f"{m.pictures.psnr_db.value:.1f}" if m.pictures else _NONE),
        ("SSIM", lambda m: f"{m.pictures.ssim.value:.4f}" if m.pictures else _NONE),
        *((name, lambda m, name=name: _cell(m.judged, name, "{:.0%}")) for name in judged),
        *((name, lambda m, name=name: _cell(m.extra, name, "{:.1f}")) for name in extra),
        ("sample s", lambda m: f"{m.sample_seconds:.1f}" if m.sample_seconds else _NONE),
    ]


def _cell(values: Mapping[str, float] | None, name: str, form: str) -> str:
    return form.format(values[name]) if values and name in values else _NONE


def _with_margin(interval: Interval) -> str:
    margin = "" if interval.margin is None else f" ± {interval.margin:.1f}"
    return f"{interval.value:.1f}{margin}"


def _worst(errors: Mapping[str, float]) -> str:
    worst = sorted(errors, key=lambda name: -errors[name])[:_WORST]
    rows = [(name, f"{errors[name]:.2e}", f"{decibel(errors[name]):.1f}") for name in worst]
    return aligned([("layer", "NMSE", "dB"), *rows])


def decibel(nmse: float) -> float:
    """Minus infinity for no error."""
    return 10 * math.log10(nmse) if nmse > 0 else -math.inf


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of a heading and rows; all but the first column to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(values: Sequence[str]) -> str:
        padded = [values[0].ljust(widths[0])]
        padded += [v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), line(rule), *map(line, rows[1:])])


def _finite(value: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value
