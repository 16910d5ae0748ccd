"""VQDM's fine-tuning: the whole network's predictions on the teacher's trajectories, codes as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..compute import Multiply
from ..finetune.autograd import NormsKeepCopies
from ..finetune.memory import recomputed
from ..finetune.questions import Question, mapped, tensor_of
from ..finetune.student import Sites
from .weight import SummedWeight

_BETAS = (0.9, 0.999)
_LEARNED = ("codebooks", "scales")


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune; the numbers are VQDM's.

    Attributes:
        count: prompts whose trajectories are learned from in an epoch; each epoch has its own.
        epochs: each with an optimizer of its own.
        batch: steps of trajectories that are learned from at a time.
        rate: of Adam.
    """

    count: int = 512
    epochs: int = 4
    batch: int = 64
    rate: float = 1e-6


class Student:
    """A host's network in float32 whose codebooks, scales and dense parameters learn.

    Args:
        sites: where the network holds layers and dense parameters; it is changed.
        weights: of the coded layers.
    """

    def __init__(self, sites: Sites, weights: Mapping[str, SummedWeight]) -> None:
        self._sites = sites
        self._weights = {name: _on(weight, sites.device) for name, weight in weights.items()}
        for module, name in sites.dense.values():
            held = module._parameters[name]
            assert held is not None
            module._parameters[name] = nn.Parameter(held.detach().clone())

    @property
    def device(self) -> torch.device:
        return self._sites.device

    def ask(self, question: Question) -> Tensor:
        """The answer to a question of a network in any precision."""

        def placed(tensor: Tensor) -> Tensor:
            return tensor.to(self.device, torch.float32 if tensor.is_floating_point() else None)

        args, kwargs = mapped((question.args, question.kwargs), placed)
        with NormsKeepCopies():
            return tensor_of(self._sites.network(*args, **kwargs)).float()

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The network computes with what learns, and keeps little for backward, until this ends."""
        for name, weight in self._weights.items():
            module, multiply = self._sites.coded[name]
            module.forward = _forward(module, multiply, weight)
        try:
            with recomputed(self._sites.network):
                yield
        finally:
            for name in self._weights:
                self._sites.coded[name][0].__dict__.pop("forward", None)

    def parameters(self) -> Iterator[Tensor]:
        return iter(self.state().values())

    def state(self) -> dict[str, Tensor]:
        """All that learns, in use: ``codebooks.X`` and ``scales.X`` of layers, ``dense.X`` of keys."""
        found = {f"dense.{key}": value for key, value in self._dense().items()}
        for name, weight in self._weights.items():
            found |= {f"{part}.{name}": getattr(weight, part) for part in _LEARNED}
        return found

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state().items():
            tensor.copy_(state[name])

    def _dense(self) -> dict[str, Tensor]:
        found = {}
        for key, (module, name) in self._sites.dense.items():
            held = module._parameters[name]
            assert held is not None
            found[key] = held
        return found


def tune(
    student: Student,
    questions: Sequence[Question],
    how: Tuning,
    rows: int,
    generator: torch.Generator,
    on_step: Callable[[float], object] = lambda error: None,
) -> float:
    """Learn from every question once, in random order.

    Args:
        questions: what the teacher was asked, with its answers.
        rows: of a network's answer that belong to a step of a trajectory: 2 with guidance.
        generator: of the order, on the CPU.
        on_step: told the mean squared error of each batch, relative to the power of the answers.

    Returns:
        That error as a mean over all batches.
    """
    adam = torch.optim.Adam(list(student.parameters()), lr=how.rate, betas=_BETAS)
    device, batch = student.device, how.batch * rows
    power = sum(float(q.answer.float().square().sum()) for q in questions)
    power /= sum(question.rows for question in questions)
    errors: list[float] = []
    error, waiting = 0.0, 0
    with torch.enable_grad(), student.learning():
        for at, number in enumerate(torch.randperm(len(questions), generator=generator).tolist()):
            question = questions[number]
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                answer = student.ask(question)
            wanted = question.answer.to(device, torch.float32)
            squares = (answer - wanted).square()
            (squares.sum() / (batch * squares[0].numel())).backward()
            error += float(squares.detach().sum())
            waiting += question.rows
            if waiting >= batch or at == len(questions) - 1:
                adam.step()
                adam.zero_grad()
                errors.append(error / waiting / power)
                on_step(errors[-1])
                error, waiting = 0.0, 0
    return sum(errors) / len(errors)


def _forward(
    module: nn.Module, multiply: Multiply, weight: SummedWeight
) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        bias = module._parameters["bias"]
        return multiply(
            input, weight.dense().to(input.dtype), None if bias is None else bias.to(input.dtype)
        )

    return forward


def _on(weight: SummedWeight, device: torch.device | str) -> SummedWeight:
    """A copy whose codebooks and scales can learn."""
    learned = [
        nn.Parameter(getattr(weight, part).detach().to(device, copy=True)) for part in _LEARNED
    ]
    return SummedWeight(weight.shape, weight.codes.to(device), *learned)
