"""Procedural scenes: two coloured shapes beside or above each other, and their captions.

A scene is the meaning of a caption such as ``"a red circle above a blue square"``. The picture
drawn for it varies in position and size, which the caption does not mention.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (210, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 70, 210),
    "yellow": (235, 200, 40),
}
BACKGROUND: tuple[int, int, int] = (240, 240, 236)
SHAPES = ("circle", "square", "triangle")
# Where the first object is, seen from the second, in picture axes (x to the right, y down).
RELATIONS: dict[str, tuple[int, int]] = {
    "above": (0, -1),
    "below": (0, 1),
    "left of": (-1, 0),
    "right of": (1, 0),
}
_OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}

# Layout, in 1/64 of the picture's side.
_OFFSET = 16.0  # from the picture's centre to an object's, along the relation
_JITTER_ALONG = 1.5
_JITTER_ACROSS = 2.0
_SIZES = (21.0, 24.0)
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Item:
    """One object: a name of `COLOURS` and a name of `SHAPES`."""

    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two objects of different colours and where the first is, seen from the second."""

    first: Item
    relation: str
    second: Item

    @property
    def caption(self) -> str:
        """The caption, e.g. ``"a red circle above a blue square"``."""
        return f"{self.first} {self.relation} {self.second}"

    def swapped(self) -> Scene:
        """The same arrangement told from the other object, so the same pictures."""
        return Scene(self.second, _OPPOSITE[self.relation], self.first)


_CAPTION = re.compile(
    r"an? ({colours}) ({shapes}) (?:to the )?({relations}) an? ({colours}) ({shapes})".format(
        colours="|".join(COLOURS), shapes="|".join(SHAPES), relations="|".join(RELATIONS)
    )
)


def parse(caption: str) -> Scene:
    """The scene that a caption means.

    Raises:
        ValueError: the caption is not of the form that `Scene.caption` writes, or both its
            objects have the same colour.
    """
    found = _CAPTION.fullmatch(" ".join(caption.lower().split()).rstrip("."))
    if found is None:
        raise ValueError(f"not a caption of a demo scene: {caption!r}")
    colour, shape, relation, other_colour, other_shape = found.groups()
    if colour == other_colour:
        raise ValueError(f"the two objects of a demo scene differ in colour: {caption!r}")
    return Scene(Item(colour, shape), relation, Item(other_colour, other_shape))


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every scene, in a fixed order."""
    items = [Item(colour, shape) for colour, shape in itertools.product(COLOURS, SHAPES)]
    return tuple(
        Scene(first, relation, second)
        for first, relation, second in itertools.product(items, RELATIONS, items)
        if first.colour != second.colour
    )


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is kept out of training: about one in eight, by a hash of a caption.

    Both captions of an arrangement fall on the same side, so that no picture of a held-out
    scene is ever trained on.
    """
    told = scene if scene.relation in ("above", "left of") else scene.swapped()
    return int.from_bytes(hashlib.sha256(told.caption.encode()).digest()[:4], "big") % 8 == 0


def held_out() -> tuple[Scene, ...]:
    """The scenes kept out of training, in the order of `all_scenes`."""
    return tuple(scene for scene in all_scenes() if is_held_out(scene))


def training() -> tuple[Scene, ...]:
    """The scenes trained on, in the order of `all_scenes`."""
    return tuple(scene for scene in all_scenes() if not is_held_out(scene))


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points of the unit square lie in the shape that fills it (y points down).

    Args:
        x, y: coordinates, 0 to 1 from edge to edge, of any shape.

    Returns:
        A boolean array of their shape.
    """
    box = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    if shape == "square":
        return box
    if shape == "circle":
        return (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25
    if shape == "triangle":
        return box & (abs(x - 0.5) <= y / 2)
    raise ValueError(f"unknown shape {shape!r}")


def draw(
    scene: Scene, rng: np.random.RandomState | np.random.Generator, size: int = 64
) -> np.ndarray:
    """Draw one picture of the scene, with position and size left to chance.

    Args:
        scene: what to draw.
        rng: the source of chance; only its `uniform` is called.
        size: the picture's side in pixels.

    Returns:
        uint8 [size, size, 3], RGB.
    """
    picture = np.empty((size, size, 3))
    picture[:] = BACKGROUND
    scale = size / 64.0
    towards = np.array(RELATIONS[scene.relation], np.float64)
    for item, sign in ((scene.first, 1.0), (scene.second, -1.0)):
        along, across = rng.uniform(-1.0, 1.0, 2) * (_JITTER_ALONG, _JITTER_ACROSS)
        side = rng.uniform(*_SIZES) * scale
        centre = 32.0 + towards * (sign * _OFFSET + along) + towards[::-1] * across
        left, top = centre * scale - side / 2
        # Only the pixels that the object's bounding box touches.
        x0, y0 = int(left), int(top)
        count = int(np.ceil(side)) + 1
        grid = (np.arange(count * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING
        mask = inside(
            item.shape, ((grid + x0 - left) / side)[None], ((grid + y0 - top) / side)[:, None]
        )
        cells = mask.reshape(count, _SUPERSAMPLING, count, _SUPERSAMPLING)
        part = picture[y0 : y0 + count, x0 : x0 + count]
        coverage = cells.mean((1, 3))[: part.shape[0], : part.shape[1], None]
        part += coverage * (COLOURS[item.colour] - part)
    return np.rint(picture).astype(np.uint8)
