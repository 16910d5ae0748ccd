"""The one form in which a file is refused."""

from __future__ import annotations

import os
from typing import NoReturn

from ..errors import VQError

COPY_AGAIN = "copy or download the file again"
QUANTIZE_AGAIN = f"{COPY_AGAIN}, or quantize again"
_LONGEST = 240


def refuse(
    path: str | os.PathLike[str],
    where: str,
    found: str,
    expected: str,
    advice: str = QUANTIZE_AGAIN,
) -> NoReturn:
    """Raise VQError. What stems from the file may be of any length and hold any character.

    Args:
        path: of the file.
        where: the layer, tensor or field.
        advice: what the user can do.
    """
    raise VQError(
        f"{path}: {plain(where)}: found {plain(found)}, expected {plain(expected)}; {advice}"
    )


def plain(text: str) -> str:
    """Text of a file made fit for a message: short, and printable on every terminal."""
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
