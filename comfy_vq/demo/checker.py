"""Reads colour, shape and position back from a picture of a demo scene, without any network.

Every pixel is explained as a mixture of the background and one of the colours; what is more
than half one colour, and hangs together, is an object. Its shape is the one whose outline,
fitted into its bounding box, overlaps it best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .scenes import BACKGROUND, COLOURS, RELATIONS, SHAPES, Item, Scene, inside

# A pixel further than this from every mixture (RGB distance, 0 to 441) is no known colour.
_LARGEST_RESIDUAL = 90.0
# Less than this share of the picture is a stain, not an object.
_SMALLEST_AREA = 0.015


@dataclass(frozen=True)
class Seen:
    """One object read from a picture; the centre is in pixels, x to the right and y down."""

    item: Item
    centre: tuple[float, float]
    area: int


@dataclass(frozen=True)
class Score:
    """What of a scene a picture gets right; each field speaks of both its objects at once."""

    colour: bool
    shape: bool
    position: bool
    whole: bool


def _masks(picture: np.ndarray) -> dict[str, np.ndarray]:
    """For each colour, the pixels of which it makes up at least half."""
    background = np.array(BACKGROUND, np.float64)
    away = np.asarray(picture, np.float64) - background
    shares, residuals = [], []
    for colour in COLOURS.values():
        direction = np.array(colour, np.float64) - background
        share = np.clip(away @ direction / (direction @ direction), 0, 1)
        shares.append(share)
        residuals.append(np.linalg.norm(away - share[..., None] * direction, axis=-1))
    best = np.argmin(residuals, 0)
    known = np.min(residuals, 0) <= _LARGEST_RESIDUAL
    return {
        name: known & (best == index) & (shares[index] >= 0.5) for index, name in enumerate(COLOURS)
    }


def _opened(mask: np.ndarray) -> np.ndarray:
    """The mask without what no 3x3 square fits into."""
    height, width = mask.shape

    def windows(values: np.ndarray) -> np.ndarray:
        padded = np.pad(values, 1)
        return np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])

    eroded = np.logical_and.reduce(windows(mask))
    return np.logical_or.reduce(windows(eroded))


def _parts(mask: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a mask, each as a mask; pixels connect along edges."""
    label = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = label.copy()
        for axis in (0, 1):
            # Along each run of the mask the largest label goes both ways, one pixel a time.
            here, there = np.moveaxis(spread, axis, 0)[:-1], np.moveaxis(spread, axis, 0)[1:]
            np.maximum(here, there, out=here, where=(here > 0) & (there > 0))
            np.maximum(here, there, out=there, where=(here > 0) & (there > 0))
        if np.array_equal(spread, label):
            return [label == value for value in np.unique(label[mask])]
        label = spread


def _shape(mask: np.ndarray) -> str:
    """The shape that, fitted into a mask's bounding box, overlaps it best (IoU)."""
    rows, columns = np.nonzero(mask)
    mask = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = mask.shape
    y, x = np.mgrid[:height, :width] + 0.5

    def overlap(shape: str) -> float:
        ideal = inside(shape, x / width, y / height)
        return (ideal & mask).sum() / (ideal | mask).sum()

    return max(SHAPES, key=overlap)


def read(picture: np.ndarray) -> tuple[Seen, ...]:
    """Find the objects in a picture.

    Args:
        picture: [height, width, 3], RGB from 0 to 255.

    Returns:
        The objects, the largest first; for a picture of a scene there are two.

    Raises:
        ValueError: the picture is not of that shape.
    """
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is [height, width, 3], not {list(picture.shape)}")
    smallest = _SMALLEST_AREA * picture.shape[0] * picture.shape[1]
    seen = []
    for colour, mask in _masks(picture).items():
        # Opening drops one-pixel fringes, where a mixture of two objects looks like a third.
        for part in _parts(_opened(mask)):
            area = int(part.sum())
            if area >= smallest:
                y, x = np.argwhere(part).mean(0) + 0.5
                seen.append(Seen(Item(colour, _shape(part)), (float(x), float(y)), area))
    return tuple(sorted(seen, key=lambda one: -one.area))


def _likeness(seen: Seen, item: Item) -> int:
    """How well an object fits: by colour first, as a scene's objects differ in colour."""
    return 2 * (seen.item.colour == item.colour) + (seen.item.shape == item.shape)


def score(picture: np.ndarray, scene: Scene) -> Score:
    """Compare a picture with the scene it should show.

    Colour and shape are right if both objects have theirs. Position is right if the object
    that fits the scene's first best lies where the relation says, seen from the other, and
    further along that axis than across it; where both ways round fit equally well, or the
    picture does not hold exactly two objects, nothing is known and it is wrong.

    Args:
        picture: [height, width, 3], RGB from 0 to 255.
        scene: what the picture should show.
    """
    seen = read(picture)
    if len(seen) != 2:
        return Score(False, False, False, False)

    def fit(pair: tuple[Seen, ...]) -> int:
        return _likeness(pair[0], scene.first) + _likeness(pair[1], scene.second)

    straight, crossed = seen, seen[::-1]
    first, second = max((straight, crossed), key=fit)
    pairs = ((first, scene.first), (second, scene.second))
    colour = all(one.item.colour == item.colour for one, item in pairs)
    shape = all(one.item.shape == item.shape for one, item in pairs)
    offset = np.subtract(first.centre, second.centre)
    towards = np.array(RELATIONS[scene.relation], np.float64)
    along, across = offset @ towards, abs(offset @ towards[::-1])
    position = bool(fit(straight) != fit(crossed) and along > across)
    return Score(colour, shape, position, colour and shape and position)
