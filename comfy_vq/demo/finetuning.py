"""The demo's model as a pupil where there is no ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..finetune.questions import Question, recorded
from ..finetune.student import Sites
from ..hosts.diffusers_finetuning import sites_of
from ..model import VQModel
from .with_diffusers import DiffusersBench


class DiffusersPupil:
    """See ``finetune.rounds.Pupil``: trajectories of captions, one each.

    Args:
        teacher: file of the dense model.
        model: the student.
        autoencoder: file of the demo's autoencoder.
        captions: to sample.
        seed: of the first caption's noise; the others count up.
    """

    def __init__(
        self, teacher: Path, model: VQModel, autoencoder: Path, captions: Sequence[str], seed: int
    ) -> None:
        self.model = model
        self._teacher = teacher
        self._benches = []
        for number, caption in enumerate(captions):
            bench = DiffusersBench(autoencoder, [caption])
            bench.seeds = [seed + number]
            self._benches.append(bench)
        self._sites: Sites | None = None

    def sites(self) -> Sites:
        self._sites = sites_of(self.model, "cuda" if torch.cuda.is_available() else "cpu")
        return self._sites

    def taught(self) -> list[list[Question]]:
        teacher = self._benches[0].load(self._teacher)
        return [_asked(teacher, bench) for bench in self._benches]

    def asked(self) -> list[list[Question]]:
        network = self._known().network
        return [_asked(network, bench) for bench in self._benches]

    def answered(self, trajectories: list[list[Question]]) -> list[list[Question]]:
        teacher, device = self._benches[0].load(self._teacher), self._known().device
        with torch.no_grad():
            return [[_answered(question, teacher, device) for question in t] for t in trajectories]

    def _known(self) -> Sites:
        if self._sites is None:
            raise RuntimeError("sites is asked for first")
        return self._sites


def _asked(network: Any, bench: DiffusersBench) -> list[Question]:
    with recorded(network) as questions:
        bench.sample(network)
    return [_by_rows(question) for question in questions]


def _by_rows(question: Question) -> Question:
    """With a timestep for each row, so that questions of several steps can be put together."""
    latents, timestep, context = question.args
    steps: Tensor = torch.full((len(latents),), int(timestep))
    return replace(question, args=(latents, steps, context))


def _answered(question: Question, teacher: nn.Module, device: torch.device) -> Question:
    return replace(question, answer=question.ask(teacher, device).cpu())
