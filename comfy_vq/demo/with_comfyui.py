"""The demo's bench where a ComfyUI is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..evaluation.bench import Bench
from ..hosts.comfy_boot import boot
from . import task

if TYPE_CHECKING:
    from ..hosts.comfy.evaluation.bench import Prompt, Settings


def comfyui_bench(
    comfyui: Path,
    autoencoder: Path,
    captions: Sequence[str],
    *,
    seed: int = task.SEED,
    steps: int = task.STEPS,
    cfg: float = task.GUIDANCE,
    sampler: str = "ddim",
    on_call: Callable[[], object] = lambda: None,
) -> Bench:
    """Boots the ComfyUI in a folder, once per process, and samples the captions in it.

    Args:
        seed: of the first caption's noise; the others count up.
        on_call: called after every evaluation of a model.

    Raises:
        VQError: see ``boot``; or the autoencoder cannot be read.
    """
    boot(comfyui)
    from ..hosts.comfy.evaluation.bench import ComfyBench
    from ..hosts.comfy.evaluation.prompting import load_vae

    prompts, settings = asked(captions, seed, steps, cfg, sampler)
    return ComfyBench(prompts, settings, load_vae(autoencoder), on_call)


def asked(
    captions: Sequence[str], seed: int, steps: int, cfg: float, sampler: str
) -> tuple[list[Prompt], Settings]:
    """What to sample, and how, in the ComfyUI that was booted before; see ``comfyui_bench``."""
    from ..hosts.comfy.evaluation.bench import Prompt, Settings

    contexts = zip(captions, *task.contexts(captions), strict=True)
    prompts = [
        Prompt(caption, [[toward[None], {}]], [[away[None], {}]], seed + i)
        for i, (caption, toward, away) in enumerate(contexts)
    ]
    latent = {"samples": torch.zeros(1, *task.LATENT)}
    return prompts, Settings(latent, steps, cfg, sampler, "ddim_uniform")
