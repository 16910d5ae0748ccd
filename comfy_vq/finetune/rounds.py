"""Fine-tuning from beginning to end: record, learn, record what the student asks, learn on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..errors import VQError
from ..evaluation.bench import spread
from ..model import VQModel
from .memory import plan_memory, recomputed
from .questions import Question
from .state import open_state, save_state
from .student import Sites, Student
from .training import Point, Settings, Training

_HELD_OUT = 8
"""One trajectory in so many is not learned from."""
_MOST_MEASURED = 24
"""Questions that each evaluation asks: few, or short runs would do little else."""
_SHARES = (0.7, 0.3)
"""Of the work: on the teacher's trajectories, then on the student's own."""

Trajectories = list[list[Question]]


class Pupil(Protocol):
    """What fine-tuning asks of a host."""

    @property
    def model(self) -> VQModel:
        """As it is before."""
        ...

    def taught(self) -> Trajectories:
        """What the teacher was asked while it sampled, with its answers; at least two trajectories."""
        ...

    def sites(self) -> Sites:
        """A network of the model; asked for once, after ``taught``: the teacher may go by then."""
        ...

    def asked(self) -> Trajectories:
        """What the network of ``sites`` is asked while it samples."""
        ...

    def answered(self, trajectories: Trajectories) -> Trajectories:
        """The same questions with the teacher's answers."""
        ...


@dataclass(frozen=True)
class Progress:
    """How far fine-tuning is.

    Attributes:
        done: 0 to 1.
        points: the evaluations so far, over all rounds.
        seconds_left: None where that is not known yet.
    """

    done: float
    points: tuple[Point, ...]
    seconds_left: float | None


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning made.

    Attributes:
        model: the best by the held-out questions; what it started from where nothing was better.
        points: the evaluations, iterations and seconds counted over all rounds.
        memory: the plan that was announced.
    """

    model: VQModel
    points: tuple[Point, ...]
    memory: str

    @property
    def before_db(self) -> float:
        return self.points[0].sqnr_db

    @property
    def after_db(self) -> float:
        return max(point.sqnr_db for point in self.points)


def fine_tune(
    pupil: Pupil,
    settings: Settings,
    *,
    recompute: bool = False,
    state: Path | None = None,
    about: str = "",
    save_every: float = 60.0,
    say: Callable[[str], object] = lambda line: None,
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Outcome:
    """Bring the predictions of a quantized model nearer to its teacher's.

    Args:
        pupil: the model, its teacher, and a host that runs both.
        settings: ``iterations`` and ``seconds`` are of both rounds together, without recordings.
        recompute: spare activations at the cost of computing them twice.
        state: a file that is kept while learning goes on, and gone on from where it is there. It is
            left for the caller to remove once the result is safe.
        about: what is being done; a state of something else is refused.
        save_every: seconds between two writings of the state.
        say: told what is going on; the plan of memory among it.
        on_progress: called after every iteration; what it raises ends the work, and the state stays.

    Raises:
        VQError: fewer than two trajectories; a state that does not fit; see also ``Training``.
    """
    saved = None if state is None or not state.exists() else open_state(state, about)
    trajectories = pupil.taught()
    if len(trajectories) < 2:
        raise VQError(
            f"found {len(trajectories)} trajectory, expected at least 2: one to learn from, one to be "
            "measured by; give more prompts or seeds"
        )
    held_out, questions = to_measure(trajectories), to_learn(trajectories)
    say(f"recorded {len(questions)} questions to learn from, {len(held_out)} to be measured by")
    student = Student(pupil.model, pupil.sites(), settings.codebooks)
    following = settings.code_rate > 0
    memory = str(plan_memory(student, questions, questions[0].answer.itemsize, following))
    say(memory)
    earlier: tuple[Point, ...] = ()
    pace = 1.0
    for number in range(len(_SHARES)):
        if saved is not None and saved.round > number:
            continue
        resumed = saved is not None and saved.round == number
        if saved is not None and resumed:
            earlier = saved.earlier
            student.restore(saved.first)
        if number:
            say("recording what the student asks")
            with student.learning():
                asked = pupil.asked()
            questions = to_learn(pupil.answered(asked))
        watch = _Watch(number, earlier, state, about, save_every, on_progress)
        training = Training(student, questions, held_out, _part(settings, number), pace)
        if saved is not None and resumed:
            saved.put_into(training)
        with recomputed(student.network) if recompute else nullcontext():
            training.run(watch)
        earlier = chained(earlier, training.history.points)
        pace = training.history.pace
        del training  # its targets of codes, before the next ones are made
    return Outcome(student.model(), earlier, memory)


def chained(earlier: Sequence[Point], points: Sequence[Point]) -> tuple[Point, ...]:
    """Points of one round after those of the rounds before it."""
    if not earlier:
        return tuple(points)
    iteration, seconds = earlier[-1].iteration, earlier[-1].seconds
    later = (
        replace(p, iteration=p.iteration + iteration, seconds=p.seconds + seconds) for p in points
    )
    return (*earlier, *later)


class _Watch:
    """Called after each iteration of a round: saves and reports."""

    def __init__(
        self,
        number: int,
        earlier: tuple[Point, ...],
        state: Path | None,
        about: str,
        save_every: float,
        on_progress: Callable[[Progress], object],
    ) -> None:
        self._number, self._earlier = number, earlier
        self._state, self._about, self._every = state, about, save_every
        self._on_progress = on_progress
        self._saved = time.monotonic()

    def __call__(self, training: Training) -> None:
        if self._state is not None and time.monotonic() - self._saved >= self._every:
            save_state(self._state, training, self._about, self._number, self._earlier)
            self._saved = time.monotonic()
        done = sum(_SHARES[: self._number]) + _SHARES[self._number] * training.done
        spent = training.history.seconds
        left = None
        if training.done > 0:
            whole = spent / training.done / _SHARES[self._number]
            left = whole * (1 - done)
        points = chained(self._earlier, training.history.points)
        self._on_progress(Progress(done, points, left))


def _part(settings: Settings, number: int) -> Settings:
    """Of one round."""
    share = _SHARES[number]
    iterations, seconds = settings.iterations, settings.seconds
    return replace(
        settings,
        iterations=None if iterations is None else max(1, round(share * iterations)),
        seconds=None if seconds is None else share * seconds,
        evaluations=max(1, round(share * settings.evaluations)),
        seed=settings.seed + 2**32 * number,
    )


def to_measure(trajectories: Trajectories) -> list[Question]:
    """Of these, the questions that are held out."""
    found = [question for group in trajectories[::_HELD_OUT] for question in group]
    return spread(found, _MOST_MEASURED)


def to_learn(trajectories: Trajectories) -> list[Question]:
    """Of these, the questions that are not held out."""
    return [q for i, group in enumerate(trajectories) if i % _HELD_OUT for q in group]
