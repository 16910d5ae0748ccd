"""This project's own way to a quantized model, within as much time as another took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ... import calibration, checkpoint
from ...calibration import Calibration
from ...finetune.rounds import Progress, fine_tune
from ...finetune.training import Settings as Learning
from ...protocol.ledger import Ledger
from .calibrating import calibrate
from .evaluation.bench import Prompt, Settings, again
from .finetuning import ComfyPupil, learning_allowed
from .model.loader import InMemory, load

CALIBRATION = "calibration"
"""The part of the ledger, which all numbers of bits have in common."""
_RECORDED = 0.25
"""Of the time for fine-tuning, that recording what to learn from may take."""
_RECORDINGS = 3
"""The teacher samples, the student samples, the teacher answers."""
_LEAST = 2


@dataclass(frozen=True, eq=False)
class Way:
    """What all numbers of bits have in common.

    Attributes:
        teacher: a dense MODEL; it is not changed.
        prompts, settings: what to sample, and how. Prompts come again, with other seeds, as often as needed.
        count: prompts to calibrate on.
        encode: writes a VQ file under a calibration, at an average number of bits.
        on_call: called after every evaluation of a model while sampling; may raise to stop.
        say: told what is going on.
        on_progress: called after every iteration of learning.
    """

    teacher: ModelPatcher
    prompts: Sequence[Prompt]
    settings: Settings
    count: int
    encode: Callable[[Path, Calibration, float], None]
    on_call: Callable[[], object]
    say: Callable[[str], object]
    on_progress: Callable[[Progress], object] = lambda progress: None


@dataclass(frozen=True)
class Matched:
    """A VQ file, and the seconds of each step; None for fine-tuning that there was no time for."""

    path: Path
    calibrating: float
    encoding: float
    tuning: float | None

    @property
    def seconds(self) -> float:
        return self.calibrating + self.encoding + (self.tuning or 0.0)


def matched(way: Way, ledger: Ledger, label: str, bits: float, seconds: float) -> Matched:
    """Calibrate and encode, and spend what is left of the time on fine-tuning.

    Parts that the ledger knows are not done again.

    Args:
        label: of the files and parts.
        bits: on average, everything counted.
        seconds: for all of it.

    Raises:
        VQError: see ``calibrate``, ``quantize`` and ``fine_tune``.
    """
    plain, tuned = (ledger.folder / f"{label}{end}.safetensors" for end in ("-untuned", ""))
    encoding, tuning = f"{label} encoding", f"{label} tuning"
    heard = _calibrated(way, ledger)
    if not ledger.done(encoding):
        with ledger.timed(encoding):
            way.encode(plain, calibration.load(heard), bits)
    spent = ledger.seconds(CALIBRATION), ledger.seconds(encoding)
    # The same in a run that goes on: what was measured once stays in the ledger.
    left, each = seconds - sum(spent), spent[0] / way.count
    recorded = int(_RECORDED * left / (_RECORDINGS * each))
    if recorded < _LEAST:
        way.say(
            f"{label}: calibrating and encoding took {sum(spent):.0f} s of {seconds:.0f} s; what is left is too "
            "little to fine-tune in"
        )
        return Matched(plain, *spent, None)
    if not ledger.done(tuning):
        with ledger.timed(tuning) as clock:
            sampling = _RECORDINGS * each * recorded
            clock.least = sampling + _tune(way, plain, tuned, recorded, left - sampling)
        tuned.with_suffix(".state").unlink(missing_ok=True)
    return Matched(tuned, *spent, ledger.seconds(tuning))


def _calibrated(way: Way, ledger: Ledger) -> Path:
    path = ledger.folder / "calibration.safetensors"
    if not ledger.done(CALIBRATION):
        with ledger.timed(CALIBRATION):
            chosen = _chosen(way.prompts, way.count)
            found = calibrate(way.teacher, chosen, way.settings, on_call=way.on_call)
            calibration.save(path, found)
        way.say(f"calibrated: {found.describe()}")
    return path


def _tune(way: Way, plain: Path, tuned: Path, count: int, seconds: float) -> float:
    """Learn from so many prompts; gives the seconds of learning over all attempts."""
    way.say(f"{tuned.stem}: learning from {count} prompts for {seconds:.0f} s")
    with learning_allowed():
        student = load(InMemory(checkpoint.load(plain)))
        chosen = _chosen(way.prompts, count)
        outcome = fine_tune(
            ComfyPupil(way.teacher, student, chosen, way.settings, way.on_call),
            Learning(seconds=seconds),
            recompute=True,
            state=tuned.with_suffix(".state"),
            about=tuned.stem,
            say=way.say,
            on_progress=way.on_progress,
        )
    checkpoint.save(tuned, outcome.model)
    way.say(f"{tuned.stem}: {outcome.before_db:.2f} dB -> {outcome.after_db:.2f} dB held out")
    return outcome.points[-1].seconds


def _chosen(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """So many, each with a seed of its own."""
    return [again(prompts, i, i) for i in range(count)]
