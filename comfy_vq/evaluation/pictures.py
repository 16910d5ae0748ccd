"""The picture grid: prompts down; the reference and each candidate with its difference across."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LONGER_SIDE = 160
_GAP = 8
_CAPTION_WIDTH = 190
_CAPTION_LINES = 6
_HEADER_HEIGHT = 56
_CHARACTERS = 22
_HEADING_CHARACTERS = 18
_INK = (20, 20, 20)
_FACTORS = (1, 2, 5, 10, 20, 50, 100)
_CLIPPED = 1e-3
"""Share of the values of a difference map that may be too bright to show."""


def draw_grid(captions: Sequence[str], pictures: Mapping[str, Tensor]) -> Image.Image:
    """Lay pictures out in a grid, beside each candidate ``|candidate - reference|``.

    The maps are amplified by one factor, which their headings state: the largest of 1, 2, 5, 10
    ... at which all but a thousandth of their values can be shown.

    Args:
        captions: of the rows.
        pictures: by model, the reference first, float ``[n, h, w, 3]`` in 0..1, as many as
            captions.
    """
    columns = list(_columns(pictures))
    sample = columns[0][1]
    scale = _LONGER_SIDE / max(sample.shape[1:3])
    width, height = round(sample.shape[2] * scale), round(sample.shape[1] * scale)
    grid = Image.new(
        "RGB",
        (
            _CAPTION_WIDTH + len(columns) * (width + _GAP),
            _HEADER_HEIGHT + len(captions) * (height + _GAP),
        ),
        "white",
    )
    canvas = ImageDraw.Draw(grid)
    font = _font()
    for row, caption in enumerate(captions):
        middle = _HEADER_HEIGHT + row * (height + _GAP) + height // 2
        text = _wrapped(caption, _CHARACTERS, max(1, min(_CAPTION_LINES, height // 20)))
        canvas.text((_GAP, middle), text, _INK, font, anchor="lm")
    for column, (heading, shown) in enumerate(columns):
        left = _CAPTION_WIDTH + column * (width + _GAP)
        text = _wrapped(heading, max(4, _HEADING_CHARACTERS * width // _LONGER_SIDE), 2)
        at = (left + width // 2, _HEADER_HEIGHT // 2)
        canvas.text(at, text, _INK, font, anchor="mm", align="center")
        for row in range(len(captions)):
            top = _HEADER_HEIGHT + row * (height + _GAP)
            grid.paste(_image(shown[row], (width, height)), (left, top))
    return grid


def _columns(pictures: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Headings and pictures, the maps of differences included."""
    (name, reference), *candidates = pictures.items()
    yield name, reference
    differences = [(shown - reference).abs() for _, shown in candidates]
    factor = _factor(differences)
    for (name, shown), difference in zip(candidates, differences, strict=True):
        yield name, shown
        yield f"difference\nx {factor}", (difference * factor).clamp(0, 1)


def _factor(differences: Sequence[Tensor]) -> int:
    shown = [f for f in _FACTORS if all(_clipped(d * f) <= _CLIPPED for d in differences)]
    return max(shown, default=1)


def _clipped(amplified: Tensor) -> float:
    return float((amplified > 1).float().mean())


def _wrapped(text: str, width: int, lines: int) -> str:
    wrapped = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(line, width, max_lines=lines, placeholder=" ...")
    ]
    return "\n".join(wrapped[:lines])


def _image(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    own = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
    return own.resize(size, Image.Resampling.BICUBIC)


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    try:
        from matplotlib import get_data_path
    except ImportError:
        return ImageFont.load_default(size=16)  # which has no accented letters
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", 14)
