"""Planning by measuring, for the command line: through ComfyUI, which runs the model."""

from __future__ import annotations

import argparse
from typing import Any

from ..calibration import Calibration
from ..demo import scenes, task
from ..errors import VQError
from ..evaluation.bench import spread
from ..hosts.comfy_boot import boot
from ..hosts.locate import VARIABLE, find_comfyui
from ..plan import Plan
from ..quantize import WeightSource, task_for
from .progress import quantization_bar
from .prompts import texts_of

_SHIPPED = "demo"
_PROMPTS = 16


def plan_by_measuring(
    args: argparse.Namespace,
    weights: WeightSource,
    table: Plan,
    how: dict[str, Any],
    calibration: Calibration | None = None,
) -> Plan:
    """A better plan than the table's.

    Args:
        args: of `quantize`.
        how: as of `quantize.task_for`.
        calibration: under which the layers will be coded.

    Raises:
        VQError: there is no ComfyUI; and see `probing.questions_of`.
    """
    comfyui = find_comfyui()
    if comfyui is None:
        raise VQError(
            "--plan measured: found no ComfyUI, which has to run the model; name its folder in the environment "
            f"variable {VARIABLE}, or leave the option away"
        )
    boot(comfyui)
    from ..hosts.comfy import probing
    from ..hosts.comfy.evaluation.candidates import load_candidate
    from ..hosts.comfy.source import ModelSource

    patcher = load_candidate(args.src)
    questions = _questions(args, patcher, table.family)
    source = ModelSource(patcher)
    wanted = task_for(weights, table.target, **how)
    with quantization_bar("measuring") as progress:
        return probing.plan_by_measuring(
            patcher, source, wanted, table, questions, progress, lambda line: None, calibration
        )


def _questions(args: argparse.Namespace, patcher: Any, family: str) -> Any:
    import torch

    from ..hosts.comfy import probing
    from ..hosts.comfy.evaluation import prompting
    from ..hosts.comfy.evaluation.bench import Prompt

    if family == _SHIPPED and not args.clip:
        captions = [scene.caption for scene in spread(scenes.training(), _PROMPTS)]
        contexts = zip(captions, *task.contexts(captions), strict=True)
        prompts = [
            Prompt(caption, [[toward[None], {}]], [[away[None], {}]], args.seed + i)
            for i, (caption, toward, away) in enumerate(contexts)
        ]
        latent = {"samples": torch.zeros(1, *task.LATENT)}
        return probing.Questions(prompts, task.GUIDANCE, latent)
    clip, _ = prompting.encoders_in(args.src)
    if args.clip:
        clip = prompting.load_clip(args.clip, args.clip_type)
    if clip is None:
        return probing.questions_of(patcher, None, None, None)
    texts = spread(texts_of(args.prompts), _PROMPTS)
    return probing.Questions(prompting.encoded_prompts(clip, texts, args.seed))
