"""The report as plots; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import TABLEAU_COLORS
from matplotlib.figure import Figure

from .figures import FLOOR, Figures
from .intervals import Interval
from .report import Report, decibel

_DPI = 120
_MOST_NAMES = 30
"""Layers whose names fit under the plot."""
_LONGEST_NAME = 32
_COLOURS = [colour for colour in TABLEAU_COLORS if colour != "tab:gray"]


def write_plots(out: Path, report: Report) -> None:
    """Write ``rate_quality.png``, ``timesteps.png`` and, with layer errors, ``layers.png``."""
    measured = [model for model in report.candidates if model.noise is not None]
    rate_quality(measured).savefig(out / "rate_quality.png", dpi=_DPI)
    by_timestep(measured, report.timesteps).savefig(out / "timesteps.png", dpi=_DPI)
    detailed = [model for model in measured if model.layer_nmse]
    if detailed:
        by_layer(detailed).savefig(out / "layers.png", dpi=_DPI)


def rate_quality(models: Sequence[Figures]) -> Figure:
    """Bits per weight against noise SQNR; the noise floor is a line."""
    figure, axes = _canvas(7, 4.5)
    axes.set(xlabel="bits per weight", ylabel="noise SQNR, dB", title="Rate and quality")
    labels = []
    shown = [(model, _quality(model)) for model in models]
    most = max((m.size.bits_per_weight for m in models if m.name != FLOOR), default=0)
    for index, (model, quality) in enumerate(shown):
        colour, bits = _colour(model, index), model.size.bits_per_weight
        if not math.isfinite(quality.value):
            continue
        if model.name == FLOOR:
            axes.axhline(quality.value, color=colour, linestyle="--", linewidth=1)
            where = (0.01, quality.value), axes.get_yaxis_transform()
            labels.append(_label(axes, FLOOR, *where, colour))
            continue
        low, high = _bounds(quality)
        # Equal prompts leave a width of nothing but rounding, of either sign.
        bars = [[max(0.0, quality.value - low)], [max(0.0, high - quality.value)]]
        axes.errorbar(bits, quality.value, yerr=bars, fmt="o", capsize=3, color=colour)
        at = (bits, quality.value), axes.transData
        labels.append(_label(axes, model.name, *at, colour, left=bits > 0.7 * most))
    axes.margins(x=0.12, y=0.15)
    _keep_apart(figure, labels)
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


def _colour(model: Figures, index: int) -> str:
    return "black" if model.name == FLOOR else _COLOURS[index % len(_COLOURS)]


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


def _label(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    coordinates: Any,
    colour: str,
    left: bool = False,
) -> Any:
    return axes.annotate(
        text,
        at,
        xycoords=coordinates,
        xytext=(-7 if left else 7, 4),
        textcoords="offset points",
        horizontalalignment="right" if left else "left",
        fontsize=9,
        color=colour,
    )


def _keep_apart(figure: Figure, labels: Sequence[Any]) -> None:
    """Lift labels off those that are below them."""
    figure.draw_without_rendering()  # only then is known where they are
    placed = []
    for label in sorted(labels, key=lambda one: one.get_window_extent().y0):
        while any(label.get_window_extent().overlaps(other) for other in placed):
            x, y = label.get_position()
            label.set_position((x, y + 2))
        placed.append(label.get_window_extent())


def _short(name: str) -> str:
    """With the block and the layer in it, which the ends of a name tell."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME // 2 - 1]}…{name[-_LONGEST_NAME // 2 :]}"
