"""The quality report of MODELs in a running graph."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ....evaluation.run import Named, evaluate
from ..display import bar_step
from ..model.loader import FromFile, InMemory, origin_of
from .bench import RECORDED, ComfyBench, Prompt, Settings
from .sizes import size_of

log = logging.getLogger(__name__)

_FOLDER = "vq_reports"
_SEEDS = 2**64


def quality_report(
    reference: ModelPatcher,
    candidates: Sequence[ModelPatcher],
    prompts: Sequence[Prompt],
    settings: Settings,
    vae: Any = None,
    floor: bool = False,
) -> tuple[str, Tensor, str]:
    """Measure candidates against a reference, and write the report below the output folder.

    Args:
        vae: to compare pictures too; None for latents alone.
        floor: measure the reference rounded to bfloat16 as well.

    Returns:
        The report as text; its plots and pictures, float32 ``[n, h, w, 3]`` in 0..1, the smaller
        ones on white; the report as JSON.

    Raises:
        VQError: see ``ComfyBench`` and ``evaluate``.
        comfy.model_management.InterruptProcessingException: the user cancelled.
    """
    models = [reference, *candidates]
    step = bar_step(_evaluations(len(candidates) + floor, len(prompts), settings.steps))
    bench = ComfyBench(prompts, settings, vae, step)
    named = [
        Named(name, model, size_of(model))
        for name, model in zip(_names(models), models, strict=True)
    ]
    out = _folder(named[0].name)
    evaluate(bench, named[0], named[1:], out, floor=floor, say=log.info)
    text, json = ((out / f"report.{kind}").read_text(encoding="utf-8") for kind in ("md", "json"))
    return text, _images(sorted(out.glob("*.png"))), json


def seeds_of(positive: list[Any], negative: list[Any], seed: int, count: int) -> list[Prompt]:
    """The same conditioning with ``count`` seeds from ``seed`` on."""
    seeds = [(seed + i) % _SEEDS for i in range(count)]
    return [Prompt(f"seed {seed}", positive, negative, seed) for seed in seeds]


def _evaluations(candidates: int, prompts: int, steps: int) -> int:
    """About how often models will be run: some samplers ask twice in a step."""
    recorded = min(RECORDED, steps)
    layers = recorded + 1
    return prompts * steps + candidates * (prompts * (recorded + steps) + layers)


def _names(models: Sequence[ModelPatcher]) -> list[str]:
    """What the report calls the models, each differently."""
    names: list[str] = []
    for name in map(_name, models):
        count = sum(known.partition(" #")[0] == name for known in names)
        names.append(f"{name} #{count + 1}" if count else name)
    return names


def _name(model: ModelPatcher) -> str:
    """The file that a MODEL comes from, where that is known, or else its family."""
    origin = origin_of(model)
    if isinstance(origin, FromFile):
        return Path(origin.path).stem
    if isinstance(origin, InMemory):
        return f"{Path(origin.model.source.name).stem}-VQ{origin.model.bits_per_weight:.3g}"
    _, arguments, *_ = model.cached_patcher_init or (None, ())
    first = arguments[0] if arguments else None
    return Path(first).stem if isinstance(first, str) else type(model.model).__name__


def _folder(name: str) -> Path:
    """A new numbered one, named after the reference."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip("_") or "model"
    output = folder_paths.get_output_directory()
    parent, stem, counter, _, _ = folder_paths.get_save_image_path(
        os.path.join(_FOLDER, plain), output
    )
    return Path(parent) / f"{stem}_{counter:05}_"


def _images(paths: Sequence[Path]) -> Tensor:
    """One batch, each picture in the upper left of as much white as the largest takes."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    height, width = (max((p.shape[i] for p in pictures), default=64) for i in (0, 1))
    batch = np.full((max(1, len(pictures)), height, width, 3), 255, np.uint8)
    for canvas, picture in zip(batch, pictures, strict=False):
        canvas[: picture.shape[0], : picture.shape[1]] = picture
    return torch.from_numpy(batch).float() / 255
