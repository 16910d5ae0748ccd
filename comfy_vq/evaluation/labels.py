"""Labels of points in a plot, each where it covers neither another label nor a point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

_SIZE = 9
_DIRECTIONS = [math.radians(degrees) for degrees in (20, 160, 340, 200, 90, 270, 50, 130, 310, 230)]
_NEAR, _FAR, _STEP = 6.0, 150.0, 6.0  # points, from a point to the edge of its label
_LED = 13.0
"""A label that is further away than so many points is joined to its point by a line."""
_MARK = 4.0  # points, half the width of what stands for a point


@dataclass(frozen=True)
class Point:
    """What to label.

    Attributes:
        x, y: in units of the data.
        low, high: ends of its error bar.
    """

    text: str
    x: float
    y: float
    low: float
    high: float
    colour: str


def label(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Label points, those with the most neighbours first. Fixes the limits of the axes."""
    figure.draw_without_rendering()  # only then is known where everything is
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    scale = figure.dpi / 72
    marks = [_mark(axes, point, scale) for point in points]
    taken = [text.get_window_extent() for text in axes.texts]
    texts = [_text(axes, point) for point in points]
    order = sorted(range(len(points)), key=lambda i: (-_neighbours(marks, i), points[i].x))
    for index in order:
        point, box = points[index], texts[index].get_window_extent()
        x, y = axes.transData.transform((point.x, point.y)).tolist()
        for distance, free in _places((x, y), box, scale):
            inside = all(axes.bbox.contains(*corner) for corner in (free.min, free.max))
            if inside and not any(free.overlaps(other) for other in (*marks, *taken)):
                box = free
                texts[index].set_position(
                    ((_middle(box)[0] - x) / scale, (_middle(box)[1] - y) / scale)
                )
                if distance > _LED:
                    _lead(axes, point, (x, y), box)
                break
        taken.append(box)


def _places(at: tuple[float, float], box: Bbox, scale: float) -> Iterator[tuple[float, Bbox]]:
    """Boxes around a point, the nearest first, with how many points (1/72 inch) they are away."""
    distance = _NEAR
    while distance <= _FAR:
        for direction in _DIRECTIONS:
            across, along = _offset((box.width, box.height), direction, distance * scale)
            corner = at[0] + across - box.width / 2, at[1] + along - box.height / 2
            yield distance, Bbox.from_bounds(*corner, box.width, box.height)
        distance += _STEP


def _middle(box: Bbox) -> tuple[float, float]:
    return (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2


def _lead(axes: Axes, point: Point, at: tuple[float, float], box: Bbox) -> None:
    """A thin line from a point to its label."""
    nearest = min(max(at[0], box.x0), box.x1), min(max(at[1], box.y0), box.y1)
    x, y = axes.transData.inverted().transform(nearest)
    axes.plot([point.x, x], [point.y, y], color=point.colour, linewidth=0.5)


def _offset(size: tuple[float, float], direction: float, distance: float) -> tuple[float, float]:
    """From a point to the middle of a label that lies in a direction of it."""
    across, along = math.cos(direction), math.sin(direction)
    return across * (distance + size[0] / 2), along * (distance + size[1] / 2)


def _text(axes: Axes, point: Point) -> Any:
    return axes.annotate(
        point.text,
        (point.x, point.y),
        xytext=(0, 0),
        textcoords="offset points",
        horizontalalignment="center",
        verticalalignment="center",
        fontsize=_SIZE,
        color=point.colour,
        in_layout=False,
    )


def _mark(axes: Axes, point: Point, scale: float) -> Bbox:
    """What a point and its error bar cover."""
    (x, low), (_, high) = axes.transData.transform([(point.x, point.low), (point.x, point.high)])
    half = _MARK * scale
    return Bbox([(x - half, min(low, high) - half), (x + half, max(low, high) + half)])


def _neighbours(marks: Sequence[Bbox], index: int) -> int:
    wide = marks[index].expanded(12, 4)
    return sum(wide.overlaps(mark) for mark in marks)
