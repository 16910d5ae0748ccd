"""What `quantize` asks the model itself: through ComfyUI, which runs it."""

from __future__ import annotations

import argparse
from typing import Any

from ..budget import native_side
from ..calibration import Calibration
from ..demo import task
from ..errors import VQError
from ..evaluation.bench import spread
from ..hosts.comfy_boot import boot
from ..hosts.locate import VARIABLE, find_comfyui
from ..plan import Plan
from ..probe import Probe
from ..quantize import WeightSource, task_for
from .evaluate import SHIPPED
from .progress import quantization_bar
from .prompts import texts_of

_PROMPTS = 16


class Measuring:
    """The model that is quantized, running, and questions to it.

    Args:
        args: of `quantize`.
        family: of the model.
        option: on the command line, for which it has to run.

    Raises:
        VQError: there is no ComfyUI; and see `probing.questions_of`.
    """

    def __init__(self, args: argparse.Namespace, family: str, option: str) -> None:
        comfyui = find_comfyui()
        if comfyui is None:
            raise VQError(
                f"{option}: found no ComfyUI, which has to run the model; name its folder in the environment "
                f"variable {VARIABLE}, or leave the option away"
            )
        boot(comfyui)
        from ..hosts.comfy.evaluation.candidates import load_candidate
        from ..hosts.comfy.model.source import ModelSource

        self._family = family
        self._patcher = load_candidate(args.src)
        self._questions = _questions(args, self._patcher, family)
        self._source = ModelSource(self._patcher)

    def plan(
        self,
        weights: WeightSource,
        table: Plan,
        how: dict[str, Any],
        calibration: Calibration | None,
    ) -> Plan:
        """A better plan than the table's.

        Args:
            how: as of `quantize.task_for`.
            calibration: under which the layers will be coded.
        """
        from ..hosts.comfy import probing

        wanted = task_for(weights, table.target, **how)
        asked = self._patcher, self._source, wanted, table, self._questions
        with quantization_bar("measuring") as progress:
            return probing.plan_by_measuring(*asked, progress, lambda line: None, calibration)

    def probe(self) -> Probe:
        """What tells how much the output minds that a layer is coded."""
        from ..hosts.comfy import probing

        asked = self._patcher, self._source, self._questions, native_side(self._family)
        return probing.probe_of(*asked, lambda: None)


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
