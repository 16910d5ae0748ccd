"""The picture grid: prompts down, models across."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_SIDE = 160
_GAP = 8
_CAPTION_WIDTH = 190
_HEADER_HEIGHT = 36
_CHARACTERS = 22
_INK = (20, 20, 20)


def draw_grid(captions: Sequence[str], columns: Mapping[str, Tensor]) -> Image.Image:
    """Lay pictures out in a grid.

    Args:
        captions: of the rows.
        columns: by heading, float `[n, h, w, 3]` in 0..1 with at least as many pictures as
            captions; square ones, enlarged.
    """
    width = _CAPTION_WIDTH + len(columns) * (_SIDE + _GAP)
    height = _HEADER_HEIGHT + len(captions) * (_SIDE + _GAP)
    grid = Image.new("RGB", (width, height), "white")
    canvas = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=16)
    for row, caption in enumerate(captions):
        text = "\n".join(textwrap.wrap(caption, _CHARACTERS))
        middle = _HEADER_HEIGHT + row * (_SIDE + _GAP) + _SIDE // 2
        canvas.text((_GAP, middle), text, _INK, font, anchor="lm")
    for column, (heading, pictures) in enumerate(columns.items()):
        left = _CAPTION_WIDTH + column * (_SIDE + _GAP)
        canvas.text((left + _SIDE // 2, _HEADER_HEIGHT // 2), heading, _INK, font, anchor="mm")
        for row in range(len(captions)):
            top = _HEADER_HEIGHT + row * (_SIDE + _GAP)
            grid.paste(_image(pictures[row]), (left, top))
    return grid


def _image(picture: Tensor) -> Image.Image:
    small = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
    return small.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
