"""What fine-tuning did, as text."""

from __future__ import annotations

from ..estimate import duration
from .rounds import Outcome


def to_text(name: str, outcome: Outcome) -> str:
    """A line on the whole, the evaluations as a table, and the plan of memory."""
    last = outcome.points[-1]
    gain = outcome.after_db - outcome.before_db
    whole = (
        f"{name}: {outcome.before_db:.2f} dB -> {outcome.after_db:.2f} dB ({gain:+.2f} dB) on questions that "
        f"were not learned from; {outcome.model.bits_per_weight:.3f} bits per weight as before; "
        f"{last.iteration} iterations in {duration(last.seconds)}"
    )
    lines = [
        whole,
        "",
        "| iteration | seconds | learned from, dB | held out, dB |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {p.iteration} | {p.seconds:.1f} | {p.loss_db:.2f} | {p.sqnr_db:.2f} |"
        for p in outcome.points
    ]
    return "\n".join([*lines, "", outcome.memory])
