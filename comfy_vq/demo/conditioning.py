"""Captions to conditioning through a fixed token embedding, without a text encoder.

Every word has a vector of signs that a hash of the word spells out, so has every place in the
caption, and so has every word at a place; a token is their sum. The last of the three lets even
an average over the tokens tell which word stood where, so a small model learns quickly which
attribute belongs to which object. Nothing is learned or stored, and only integer arithmetic is
involved, so the values are the same on every machine and library version.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

LENGTH = 8
WIDTH = 768  # the context width of SD1.5
_SEED = "comfy-vq demo 1"
# Words that mean nothing here; without them the same role has the same place in every caption.
_SILENT = frozenset({"a", "an", "the", "of", "to", "is", "and"})


@cache
def _signs(name: str) -> np.ndarray:
    """float32 [WIDTH] of -1 and 1, nearly orthogonal to that of every other name."""
    digest = hashlib.shake_256(f"{_SEED}/{name}".encode()).digest(WIDTH // 8)
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1


def embed(captions: Sequence[str]) -> torch.Tensor:
    """Turn captions into the context of cross-attention.

    Args:
        captions: any text; upper case, punctuation, articles and "of" are ignored. The empty
            caption is the unconditional one of classifier-free guidance.

    Returns:
        float32 [len(captions), LENGTH, WIDTH]; places after the last word are zero.

    Raises:
        ValueError: a caption has more than LENGTH words that count.
    """
    tokens = np.zeros((len(captions), LENGTH, WIDTH), np.float32)
    for row, caption in enumerate(captions):
        words = [word for word in re.findall(r"\w+", caption.lower()) if word not in _SILENT]
        if len(words) > LENGTH:
            raise ValueError(f"more than {LENGTH} words in the caption {caption!r}")
        for place, word in enumerate(words):
            names = (f"word/{word}", f"place/{place}", f"word/{word}/place/{place}")
            tokens[row, place] = sum(_signs(name) for name in names)
    return torch.from_numpy(tokens)
