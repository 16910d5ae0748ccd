"""What the demo samples, the same in every host, and how its pictures are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint
from ..checkpoint.gguf import gguf_size, is_gguf
from ..evaluation.bench import Size, spread
from . import checker, conditioning, scenes

STEPS = 20
GUIDANCE = 3.0
LATENT = (4, 8, 8)
"""Shape of one of the shipped model's latents: pictures of 64 x 64."""
SEED = 1
"""Of the first prompt's initial noise; the others count up."""
RECORDED = tuple(spread(range(STEPS), 8))
"""Steps whose inputs candidates answer."""


def subjects(count: int, held_out: bool = True) -> list[scenes.Scene]:
    """Up to ``count`` scenes that were held out of training, or were not, spread over all of them."""
    return spread(scenes.held_out() if held_out else scenes.training(), count)


def contexts(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What guidance leads to and away from, each float32 ``[captions, tokens, 768]``."""
    return conditioning.embed(captions), conditioning.embed([""] * len(captions))


def size_of(path: Path) -> Size:
    """Of the diffusion model in a VQ file, a GGUF file or a dense one, by the header alone."""
    if is_gguf(path):
        return Size(*gguf_size(path))
    if checkpoint.is_vq(path):
        header = checkpoint.inspect(path)
        return Size(header.nbytes, header.numel)
    source = checkpoint.open_dense(path)
    numels = {key: prod(source.shape(key)) for key in sorted(source.keys())}
    stored = sum(numel * source.dtype(key).itemsize for key, numel in numels.items())
    return Size(stored, sum(numels.values()))


def judge(pictures: Tensor, shown: Sequence[scenes.Scene]) -> dict[str, float]:
    """Share of pictures in which the checker finds what the caption says.

    Args:
        pictures: float ``[n, h, w, 3]`` in 0..1.
        shown: what they were made for.

    Returns:
        ``colour``, ``shape`` and ``position`` count pictures in which that attribute is right for
        both objects; ``scene`` those in which all of them are.
    """
    readable = (pictures * 255).round().to(torch.uint8).numpy()
    scores = [asdict(checker.score(*pair)) for pair in zip(readable, shown, strict=True)]
    shares = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
    return {"scene" if name == "whole" else name: share for name, share in shares.items()}
