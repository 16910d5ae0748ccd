"""The demo's bench where a ComfyUI is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..evaluation.bench import Bench
from ..hosts.comfy_boot import boot
from . import task


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
    from ..hosts.comfy.evaluation.bench import ComfyBench, Prompt, Settings
    from ..hosts.comfy.evaluation.prompting import load_vae

    contexts = zip(captions, *task.contexts(captions), strict=True)
    prompts = [
        Prompt(caption, [[toward[None], {}]], [[away[None], {}]], seed + i)
        for i, (caption, toward, away) in enumerate(contexts)
    ]
    latent = {"samples": torch.zeros(1, *task.LATENT)}
    settings = Settings(latent, steps, cfg, sampler, "ddim_uniform")
    return ComfyBench(prompts, settings, load_vae(autoencoder), on_call)
