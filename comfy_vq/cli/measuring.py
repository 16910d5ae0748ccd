"""Planning by measuring, for the command line: through ComfyUI, which runs the model."""

from __future__ import annotations

import argparse
from typing import Any

from ..calibration import Calibration
from ..demo import task
from ..errors import VQError
from ..evaluation.bench import spread
from ..hosts.comfy_boot import boot
from ..hosts.locate import VARIABLE, find_comfyui
from ..plan import Plan
from ..quantize import WeightSource, task_for
from .evaluate import SHIPPED
from .progress import quantization_bar
from .prompts import texts_of

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
    from ..hosts.comfy import probing
    from ..hosts.comfy.evaluation import prompting

    if family == SHIPPED and not args.clip:
        from ..demo.with_comfyui import asked

        captions = [scene.caption for scene in task.subjects(_PROMPTS, held_out=False)]
        prompts, how = asked(captions, args.seed, task.STEPS, task.GUIDANCE, "ddim")
        return probing.Questions(prompts, how.cfg, how.latent)
    clip, _ = prompting.encoders_in(args.src)
    if args.clip:
        clip = prompting.load_clip(args.clip, args.clip_type)
    if clip is None:
        return probing.questions_of(patcher, None, None, None)
    texts = spread(texts_of(args.prompts), _PROMPTS)
    return probing.Questions(prompting.encoded_prompts(clip, texts, args.seed))
