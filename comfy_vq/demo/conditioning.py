"""Captions to conditioning through a fixed token embedding, without a text encoder.

Every word has a vector of signs that a hash of the word spells out, and every place in the
caption has one too; a token is their sum. Nothing is learned or stored, and only integer
arithmetic is involved, so the values are the same on every machine and library version.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

LENGTH = 12
WIDTH = 768  # the context width of SD1.5
_SEED = "comfy-vq demo 1"


@cache
def _signs(name: str) -> np.ndarray:
    """float32 [WIDTH] of -1 and 1, nearly orthogonal to that of every other name."""
    digest = hashlib.shake_256(f"{_SEED}/{name}".encode()).digest(WIDTH // 8)
    return np.unpackbits(np.frombuffer(digest, np.uint8)).astype(np.float32) * 2 - 1


def embed(captions: Sequence[str]) -> torch.Tensor:
    """Turn captions into the context of cross-attention.

    Args:
        captions: any text; upper case and punctuation are ignored. The empty caption is the
            unconditional one of classifier-free guidance.

    Returns:
        float32 [len(captions), LENGTH, WIDTH]; places after the last word are zero.

    Raises:
        ValueError: a caption has more than LENGTH words.
    """
    tokens = np.zeros((len(captions), LENGTH, WIDTH), np.float32)
    for row, caption in enumerate(captions):
        words = re.findall(r"\w+", caption.lower())
        if len(words) > LENGTH:
            raise ValueError(f"more than {LENGTH} words in the caption {caption!r}")
        for place, word in enumerate(words):
            tokens[row, place] = _signs(f"word/{word}") + _signs(f"place/{place}")
    return torch.from_numpy(tokens)
