"""The report as plots; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from .figures import FLOOR, Figures
from .intervals import Interval
from .labels import Point, label
from .report import Report, decibel

_DPI = 120
_MOST_NAMES = 30
"""Layers whose names fit under the plot."""
_LONGEST_NAME = 32
_SMALL, _CROWDED = (7, 4.5), (11, 8)  # inches
_MOST_COLOURS = 9
"""Models that colours can tell apart."""
_COLOURS = [colour for colour in TABLEAU_COLORS if colour != "tab:gray"]


def write_plots(out: Path, report: Report) -> None:
    """Write ``rate_quality.png``, ``timesteps.png`` and, with layer errors, ``layers.png``."""
    measured = [model for model in report.candidates if model.noise is not None]
    rate_quality(measured).savefig(out / "rate_quality.png", dpi=_DPI)
    by_timestep(measured, report.timesteps).savefig(out / "timesteps.png", dpi=_DPI)
    detailed = [model for model in measured if model.layer_nmse]
    if detailed:
        by_layer(detailed).savefig(out / "layers.png", dpi=_DPI)


def rate_quality(
    models: Sequence[Figures], series: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Bits per weight against noise SQNR; the noise floor is a line.

    Args:
        series: names of models that are one thing at several sizes, under what it is called: of one
            colour, and joined.
    """
    figure, axes = _canvas(*(_CROWDED if len(models) > _MOST_COLOURS else _SMALL))
    axes.set(xlabel="bits per weight", ylabel="noise SQNR, dB", title="Rate and quality")
    colours = _series_colours(series or {})
    points = []
    for index, model in enumerate(models):
        quality, bits = _quality(model), model.size.bits_per_weight
        if not math.isfinite(quality.value):
            continue
        colour = colours.get(model.name) or _colour(
            model, index, _COLOURS[len(series or {}) :] or _COLOURS
        )
        if model.name == FLOOR:
            axes.axhline(quality.value, color=colour, linestyle="--", linewidth=1)
            continue
        low, high = _bounds(quality)
        # Equal prompts leave a width of nothing but rounding, of either sign.
        bars = [[max(0.0, quality.value - low)], [max(0.0, high - quality.value)]]
        axes.errorbar(bits, quality.value, yerr=bars, fmt="o", capsize=3, color=colour)
        points.append(Point(model.name, bits, quality.value, low, high, colour))
    placed = {point.text: point for point in points}
    for names in (series or {}).values():
        line = sorted((placed[name].x, placed[name].y) for name in names if name in placed)
        if line:
            axes.plot(*zip(*line, strict=True), color=colours[names[0]], linewidth=1, alpha=0.6)
    axes.margins(x=0.12, y=0.15)
    _name_floor(axes, models)
    label(figure, axes, points)
    return figure


def by_timestep(models: Sequence[Figures], timesteps: Sequence[float]) -> Figure:
    """Noise SQNR over timesteps."""
    figure, axes = _canvas(7, 4.5)
    axes.set(xlabel="timestep, noisiest first", ylabel="noise SQNR, dB", title="By timestep")
    for index, model in enumerate(models):
        steps = model.noise.by_timestep_db if model.noise else ()
        colour = _colour(model, index)
        values = [_or_gap(step.value) for step in steps]
        axes.plot(timesteps, values, marker=".", label=model.name, color=colour)
        bounds = [tuple(map(_or_gap, _bounds(step))) for step in steps]
        lows, highs = zip(*bounds, strict=True)
        axes.fill_between(timesteps, lows, highs, color=colour, alpha=0.2, linewidth=0)
    axes.invert_xaxis()
    _legend(axes, len(models))
    return figure


def by_layer(models: Sequence[Figures]) -> Figure:
    """NMSE of layers' outputs."""
    names = list({name: None for model in models for name in model.layer_nmse})
    place = {name: index for index, name in enumerate(names)}
    figure, axes = _canvas(11, 6)
    axes.set(ylabel="NMSE of the layer's output, dB", title="Layers, in the order of their use")
    for index, model in enumerate(models):
        colour = _colour(model, index)
        values = [_or_gap(decibel(error)) for error in model.layer_nmse.values()]
        places = [place[name] for name in model.layer_nmse]
        axes.plot(
            places, values, marker=".", linewidth=0.6, markersize=4, label=model.name, color=colour
        )
    stride = math.ceil(len(names) / _MOST_NAMES)
    ticks = range(0, len(names), stride)
    axes.set_xticks(ticks, [_short(names[tick]) for tick in ticks], rotation=90, fontsize=7)
    axes.set_xlim(-1, len(names))
    _legend(axes, len(models))
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    # Not pyplot's, which would keep every figure and may look for a screen.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _colour(model: Figures, index: int, colours: Sequence[str] = _COLOURS) -> str:
    return "black" if model.name == FLOOR else colours[index % len(colours)]


def _series_colours(series: Mapping[str, Sequence[str]]) -> dict[str, str]:
    colours = zip(series.values(), _COLOURS, strict=False)
    return {name: colour for names, colour in colours for name in names}


def _name_floor(axes: Axes, models: Sequence[Figures]) -> None:
    for model in models:
        if model.name == FLOOR and math.isfinite(_quality(model).value):
            where = 0.01, _quality(model).value
            axes.annotate(
                FLOOR,
                where,
                xycoords=axes.get_yaxis_transform(),
                xytext=(7, 4),
                textcoords="offset points",
                fontsize=9,
            )


def _quality(model: Figures) -> Interval:
    return model.noise.sqnr_db if model.noise else Interval(math.nan)


def _bounds(interval: Interval) -> tuple[float, float]:
    if interval.low is None or interval.high is None:
        return interval.value, interval.value
    return interval.low, interval.high


def _or_gap(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _legend(axes: Axes, count: int) -> None:
    axes.figure.legend(loc="outside lower center", ncols=min(count, 5), frameon=False)


def _short(name: str) -> str:
    """With the block and the layer in it, which the ends of a name tell."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 2 - 1]}…{name[-_LONGEST_NAME // 2 :]}"
