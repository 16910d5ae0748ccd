"""The loop: a student learns to answer as the teacher did."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import VQError
from .autograd import NormsKeepCopies
from .following import Follower, can_follow
from .questions import Question, joined
from .student import Parameters, Student

CODE_RATE = 3e-3
"""A good ``Settings.code_rate`` where codes are to move."""

_WARM_UP = 5
_SHORTER = (0.1, 0.5)
"""Bounds of what the length of steps is multiplied by where they were too long."""
_LEAST_SCALE = 1e-2
"""Of a tensor's root mean square, by which its steps are measured."""
_HALF_SCALE = 2.0**12
_LARGEST_SCALE = 2.0**24
_GROWTH = 100
"""Iterations without an overflow after which losses in half precision are scaled up again."""


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Attributes:
        iterations: None to learn for ``seconds``.
        seconds: of learning and evaluating; None for no limit.
        rows: of questions, in each iteration.
        rate: of learning, relative to the size of each tensor; where such steps make the student worse
            than it began they are shortened.
        codebooks: whether codebooks of additive codes learn.
        code_rate: how far a target of codes moves in a step, in units of the row scale; 0 leaves
            codes as they are.
        turns: steps after which every row's codes have been looked at once.
        evaluations: how often the held-out questions are asked, spread over the whole.
        patience: evaluations without a better one after which it ends.
        seed: of the order of questions.
    """

    iterations: int | None = None
    seconds: float | None = None
    rows: int = 8
    rate: float = 3e-3
    codebooks: bool = True
    code_rate: float = 0.0
    turns: int = 30
    evaluations: int = 10
    patience: int = 4
    seed: int = 0


@dataclass
class Point:
    """Where learning stood at an evaluation.

    Attributes:
        iteration, seconds: since the beginning.
        loss_db: of the training questions, smoothed; the power of the error over that of the answers.
        sqnr_db: on the held-out questions.
    """

    iteration: int
    seconds: float
    loss_db: float
    sqnr_db: float


@dataclass
class History:
    """What a checkpoint knows beside tensors.

    Attributes:
        iteration: done so far; ``steps`` of them changed anything.
        seconds: that they took.
        loss: smoothed, relative to the power of the answers.
        scale: of the loss in half precision, and iterations since it changed.
        pace: the length of steps, relative to what the settings ask for.
        points: the evaluations.
        best: index of the best of them.
    """

    iteration: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    scale: float = 1.0
    since: int = 0
    pace: float = 1.0
    points: list[Point] = field(default_factory=list)
    best: int = 0


OnIteration = Callable[["Training"], None]
"""Called after each iteration; what it raises ends the training."""


class Training:
    """A student on its way.

    Args:
        student: is measured as it is, and left at the best that was found.
        questions, held_out: to learn from and to be measured by; at least one each.
        pace: to begin with; see ``History``.

    Raises:
        VQError: there are no questions, or the teacher's answers are all zero.
    """

    def __init__(
        self,
        student: Student,
        questions: Sequence[Question],
        held_out: Sequence[Question],
        settings: Settings,
        pace: float = 1.0,
    ) -> None:
        self.student = student
        self.settings = settings
        self.history = History(pace=pace)
        self._questions, self._held_out = questions, held_out
        self._power = _power(questions)
        if not self._power or not _power(held_out):
            raise VQError("found no answers of the teacher other than zero, expected predictions")
        half = any(question.answer.dtype == torch.float16 for question in questions)
        if half:
            self.history.scale = _HALF_SCALE
        self._scaled = half
        groups = [{"params": [p], "base": settings.rate * _size(p)} for p in student.parameters()]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)
        self.followers: dict[str, Follower] = {}
        if settings.code_rate > 0:
            self.followers = {
                name: Follower(learned, settings.turns)
                for name, learned in student.coded.items()
                if can_follow(learned.weight)
            }
        self.first = student.snapshot()
        self.best: Parameters = {}

    @property
    def best_point(self) -> Point:
        return self.history.points[self.history.best]

    @property
    def done(self) -> float:
        """The share of the work that is done, 0 to 1."""
        settings, history = self.settings, self.history
        shares = [1.0] if settings.iterations is None and settings.seconds is None else [0.0]
        if settings.iterations is not None:
            shares.append(history.iteration / max(1, settings.iterations))
        if settings.seconds is not None:
            shares.append(history.seconds / max(1e-9, settings.seconds))
        return min(1.0, max(shares))

    def run(self, on_iteration: OnIteration | None = None) -> None:
        """Learn to the end, or on from where it was interrupted, and go back to the best."""
        started = time.monotonic() - self.history.seconds
        with self.student.learning():
            if not self.history.points:
                self._evaluate(started)
            while self.done < 1 and not self._stuck():
                self._iterate()
                self.history.seconds = time.monotonic() - started
                if len(self.history.points) <= self.done * self.settings.evaluations:
                    self._evaluate(started)
                if on_iteration is not None:
                    on_iteration(self)
        self.student.restore(self.best)

    def _stuck(self) -> bool:
        since = len(self.history.points) - 1 - self.history.best
        return since >= self.settings.patience

    def _iterate(self) -> None:
        history, student = self.history, self.student
        rate = min(1.0, (history.steps + 1) / _WARM_UP) * (1.02 - self.done) * history.pace
        loss = 0.0
        with torch.inference_mode(False), torch.enable_grad():
            for question in self._asked():
                error = _error(student, question)
                mean = error / (self.settings.rows * self._power)
                (mean * history.scale).backward()
                loss += float(mean.detach())
        history.iteration += 1
        if not student.collect(history.scale) or not math.isfinite(loss):
            self._overflowed()
            return
        history.loss = loss if math.isnan(history.loss) else 0.9 * history.loss + 0.1 * loss
        history.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        student.settle()
        with torch.no_grad():
            for follower in self.followers.values():
                follower.step(history.steps, self.settings.code_rate * rate)
        history.since += 1
        if self._scaled and history.since >= _GROWTH:
            history.since, history.scale = 0, min(_LARGEST_SCALE, 2 * history.scale)

    def _overflowed(self) -> None:
        """Forget the gradients; half precision gets a smaller scale."""
        self.optimizer.zero_grad(set_to_none=True)
        for learned in self.student.coded.values():
            learned.gradient = None
        self.history.scale, self.history.since = self.history.scale / 2, 0
        if self.history.scale < 2.0**-20:
            raise VQError(
                "the gradients are not finite whatever the scale of the loss; lower the learning rate"
            )

    def _asked(self) -> list[Question]:
        """This iteration's questions, in as few calls as they fit into.

        Every question is asked once before any is asked again, in an order that depends on the seed and
        the iteration alone: going on from a checkpoint needs no state of chance.
        """
        count = max(1, self.settings.rows // self._questions[0].rows)
        total = len(self._questions)
        chosen = []
        for position in range(self.history.iteration * count, (self.history.iteration + 1) * count):
            turn, place = divmod(position, total)
            generator = torch.Generator().manual_seed((self.settings.seed + turn) % 2**63)
            chosen.append(self._questions[int(torch.randperm(total, generator=generator)[place])])
        together = joined(chosen)
        return chosen if together is None else [together]

    @torch.no_grad()
    def _evaluate(self, started: float) -> None:
        error = sum(float(_error(self.student, question)) for question in self._held_out)
        rows = sum(question.rows for question in self._held_out)
        relative = error / rows / _power(self._held_out)
        sqnr = -10 * math.log10(max(1e-30, relative)) if math.isfinite(relative) else -math.inf
        history = self.history
        history.seconds = time.monotonic() - started
        loss = -10 * math.log10(history.loss) if history.loss > 0 else math.nan
        history.points.append(Point(history.iteration, history.seconds, loss, sqnr))
        if sqnr > self.best_point.sqnr_db or not self.best:
            history.best = len(history.points) - 1
            self.best = self.student.snapshot()
        elif sqnr < history.points[0].sqnr_db:
            self._go_back(10 ** ((sqnr - history.points[0].sqnr_db) / 20))

    @torch.no_grad()
    def _go_back(self, closer: float) -> None:
        """Learn on from the best in shorter steps.

        Args:
            closer: the error that learning began with, relative to what steps of this length led to.
        """
        least, most = _SHORTER
        self.history.pace *= min(max(closer, least), most)
        self.student.restore(self.best)
        for moments in self.optimizer.state.values():
            moments["exp_avg"].zero_()
        for follower in self.followers.values():
            follower.go_back()


def _error(student: Student, question: Question) -> Tensor:
    """Summed over rows and elements."""
    with NormsKeepCopies():
        answer = question.ask(student.network, student.device).float()
    wanted = question.answer.to(student.device, torch.float32)
    return (answer - wanted).square().sum()


def _power(questions: Sequence[Question]) -> float:
    """Of the answers, for a row."""
    total = sum(float(question.answer.float().square().sum()) for question in questions)
    return total / max(1, sum(question.rows for question in questions))


def _size(parameter: Tensor) -> float:
    return max(_LEAST_SCALE, float(parameter.detach().square().mean().sqrt()))
