"""This project's own way to a quantized model, within as much time as another took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ... import calibration, checkpoint
from ...calibration import Calibration
from ...finetune.rounds import Progress, fine_tune
from ...finetune.training import Settings as Learning
from ...protocol.ledger import Ledger
from .calibrating import calibrate
from .evaluation.bench import Prompt, Settings
from .finetuning import ComfyPupil, learning_allowed
from .loader import InMemory, load

CALIBRATION = "calibration"
_RECORDED = 0.25
"""Of the time for fine-tuning, that recording what to learn from may take."""
_RECORDINGS = 3
"""The teacher samples, the student samples, the teacher answers."""
_LEAST = 2

Encode = Callable[[Path, Calibration, float], None]
"""Writes a VQ file under a calibration at an average number of bits."""


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


def matched(
    teacher: ModelPatcher,
    prompts: Sequence[Prompt],
    settings: Settings,
    count: int,
    bits: float,
    seconds: float,
    encode: Encode,
    ledger: Ledger,
    label: str,
    on_call: Callable[[], object],
    say: Callable[[str], object],
    on_progress: Callable[[Progress], object] = lambda progress: None,
) -> Matched:
    """Calibrate and encode, and spend what is left of the time on fine-tuning.

    Parts that the ledger knows are not done again; the calibration is that of all bits.

    Args:
        teacher: dense; it is not changed.
        prompts, settings: what to sample, and how.
        count: prompts to calibrate on.
        bits: on average, everything counted.
        seconds: for all of it.
        label: of the files and parts.

    Raises:
        VQError: see ``calibrate``, ``quantize`` and ``fine_tune``.
    """
    folder = ledger.folder
    heard, plain = folder / "calibration.safetensors", folder / f"{label}-untuned.safetensors"
    encoding, tuning, tuned = (
        f"{label} encoding",
        f"{label} tuning",
        folder / f"{label}.safetensors",
    )
    if not ledger.done(CALIBRATION):
        with ledger.timed(CALIBRATION):
            found = calibrate(teacher, _chosen(prompts, count), settings, on_call=on_call)
            calibration.save(heard, found)
        say(f"calibrated: {found.describe()}")
    if not ledger.done(encoding):
        with ledger.timed(encoding):
            encode(plain, calibration.load(heard), bits)
    spent = ledger.seconds(CALIBRATION, encoding)
    each = ledger.seconds(CALIBRATION) / count
    left = seconds - spent
    recorded = int(_RECORDED * left / (_RECORDINGS * each))
    if recorded < _LEAST:
        say(
            f"{label}: calibrating and encoding took {spent:.0f} s of {seconds:.0f} s; what is left is too "
            "little to fine-tune in"
        )
        return Matched(plain, ledger.seconds(CALIBRATION), ledger.seconds(encoding), None)
    if not ledger.done(tuning):
        with ledger.timed(tuning) as clock:
            learning = Learning(seconds=left - _RECORDINGS * each * recorded)
            say(f"{label}: learning from {recorded} prompts for {learning.seconds:.0f} s")
            state = folder / f"{label}.state"
            with learning_allowed():
                student = load(InMemory(checkpoint.load(plain)))
                outcome = fine_tune(
                    ComfyPupil(teacher, student, _chosen(prompts, recorded), settings, on_call),
                    learning,
                    recompute=True,
                    state=state,
                    about=label,
                    say=say,
                    on_progress=on_progress,
                )
            clock.least = outcome.points[-1].seconds + _RECORDINGS * each * recorded
            checkpoint.save(tuned, outcome.model)
            state.unlink(missing_ok=True)
        say(f"{label}: {outcome.before_db:.2f} dB -> {outcome.after_db:.2f} dB held out")
    parts = (ledger.seconds(part) for part in (CALIBRATION, encoding, tuning))
    return Matched(tuned, *parts)


def _chosen(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """So many, each with a seed of its own; those of a short list come again."""
    seed = prompts[0].seed
    return [replace(prompts[i % len(prompts)], seed=seed + i) for i in range(count)]
