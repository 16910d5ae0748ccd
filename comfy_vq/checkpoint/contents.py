"""What kind of file a file is, from its header alone and without a check of it: for lists of files."""

from __future__ import annotations

import json
import os

from .components import FEATURE
from .fields import FIELDS
from .header import METADATA
from .layout import PREFIX, RESERVED
from .reader import MAX_HEADER

MODEL = "model"
"""What ``contents`` calls a diffusion model."""
CLIP, VAE = "clip", "vae"
"""Components that have a meaning so far: text encoders and an autoencoder."""


def is_vq(path: str | os.PathLike[str]) -> bool:
    """Whether a file calls itself a VQ checkpoint, of whatever version; reads only its header."""
    return bool(_vq_header(path))


def contents(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """What a file holds: ``model`` for a diffusion model, and the names of components.

    A damaged VQ checkpoint counts as one that holds everything, so that its error is seen; a file of
    another kind holds nothing.
    """
    header = _vq_header(path)
    if not header:
        return ()
    try:
        index = json.loads(header)
        fields = index.pop(METADATA)
        if FEATURE not in json.loads(fields["vq.requires"]):
            return (MODEL,)
        components = [str(name) for name in json.loads(fields["vq.components"])]
        others = tuple(PREFIX + name for name in RESERVED)
        has_model = any(not name.startswith(others) for name in index)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return (MODEL, CLIP, VAE)
    return (MODEL, *components) if has_model else tuple(components)


def _vq_header(path: str | os.PathLike[str]) -> bytes:
    """The index of a VQ checkpoint; empty for a file of another kind."""
    marker = f'"{FIELDS[0].key}"'.encode()
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return b""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER:
                return b""
            header = file.read(length)
    except (OSError, ValueError):
        return b""
    # The field stands in the metadata, where only strings are values.
    return header if marker + b":" in header.replace(b" ", b"") else b""
