"""A pool of drawn training scenes, made once and kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import trange

from comfy_vq.demo.scenes import draw, training

_SEED = 20240


def pool(path: Path, count: int = 12_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the pool, or read it if it is there.

    Args:
        path: a ``.npz`` file, created if missing.
        count: how many pictures to draw.

    Returns:
        The pictures, uint8 [count, 3, 64, 64], and for each the index of its scene in
        `comfy_vq.demo.scenes.training()`, int64 [count].
    """
    if not path.exists():
        rng = np.random.RandomState(_SEED)
        scenes = training()
        which = np.arange(count) % len(scenes)
        pictures = np.stack(
            [
                draw(scenes[which[i]], rng)
                for i in trange(count, desc="drawing scenes", mininterval=5)
            ]
        )
        np.savez(path, pictures=pictures.transpose(0, 3, 1, 2), which=which)
    with np.load(path) as stored:
        return torch.from_numpy(stored["pictures"]), torch.from_numpy(stored["which"])
