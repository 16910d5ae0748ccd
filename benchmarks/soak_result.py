"""What a soak found, what of it is wrong, and the table of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.soak_graphs import Picture

TOLERANCE = 10.0
"""MB per 100 prompts that the resident set may grow by over the second half of the prompts."""
_NEAR = 10
"""How many samples are summed up as the memory at the start and at the end."""


@dataclass
class Soak:
    """What happened to the prompts so far.

    Attributes:
        warm: how many prompts there are until every kind has run once.
        resident: bytes of the server's resident set after each prompt.
        rendered: pictures that were rendered, the first time or again.
        first: hash of each picture's first rendering.
        mismatching: a line for each rendering that is not as the first, or as that of another.
        faults: how many were injected, by name.
        answers: a line for each prompt that was not answered as it should have been.
        interrupted: how many interruptions were sent, by the node meant.
        hits: how many of them stopped that node.
        unloads: requests to unload all models and to free memory.
        free: bytes of main memory that the server reported as free, warm and in the end.
    """

    warm: int
    resident: list[int] = field(default_factory=list)
    rendered: int = 0
    first: dict[Picture, str] = field(default_factory=dict)
    mismatching: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    answers: list[str] = field(default_factory=list)
    interrupted: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    unloads: int = 0
    free: list[int] = field(default_factory=list)
    alive: bool = True
    seconds: float = 0.0

    def compare(self, picture: Picture, digest: str) -> None:
        """Note a rendering. Different pictures that look alike would be no test of anything."""
        self.rendered += 1
        if picture not in self.first and digest in self.first.values():
            self.mismatching.append(f"{picture}: has the bytes of another picture")
        if self.first.setdefault(picture, digest) != digest:
            self.mismatching.append(f"{picture}: differs from its first rendering")

    @property
    def start(self) -> float:
        """MB resident once the server was warm."""
        return statistics.median(self.resident[self.warm : self.warm + _NEAR]) / 1e6

    @property
    def end(self) -> float:
        """MB resident in the end."""
        return statistics.median(self.resident[-_NEAR:]) / 1e6

    @property
    def growth(self) -> float:
        """MB per 100 prompts over the second half of the prompts."""
        return 100 * slope(self.resident[len(self.resident) // 2 :]) / 1e6

    def problems(self) -> list[str]:
        """What is not as it should be, a line each; of memory ``leaks`` tells."""
        found = [*self.mismatching, *self.answers]
        for node, count in self.interrupted.items():
            if self.hits[node] != count:
                found.append(f"{self.hits[node]} of {count} interruptions stopped the {node}")
        return found if self.alive else [*found, "the server ended"]

    def leaks(self) -> list[str]:
        """A line if memory grows by more than it may; needs some dozens of prompts to be so."""
        grows = (
            f"memory grows by {self.growth:.1f} MB per 100 prompts, at most {TOLERANCE:g} may be"
        )
        return [grows] if self.growth > TOLERANCE else []


def different(runs: dict[str, Soak]) -> list[str]:
    """A line for each picture that is not the same in all runs in which it was rendered."""
    found: dict[Picture, set[str]] = {}
    for run in runs.values():
        for picture, digest in run.first.items():
            found.setdefault(picture, set()).add(digest)
    return [f"{p}: differs between the servers" for p, digests in found.items() if len(digests) > 1]


def slope(values: Sequence[float]) -> float:
    """Change from one value to the next: the median over all pairs, which outliers do not move."""
    pairs = ((i, j) for j in range(len(values)) for i in range(j))
    return statistics.median((values[j] - values[i]) / (j - i) for i, j in pairs)


def table(runs: dict[str, Soak]) -> str:
    """A Markdown table with a column for each run."""
    rows = {
        "prompts": lambda run: len(run.resident),
        "of them until every kind had run": lambda run: run.warm,
        "pictures rendered": lambda run: run.rendered,
        "different pictures": lambda run: len(run.first),
        "mismatching pictures": lambda run: len(run.mismatching),
        **{
            f"fault: {name}": lambda run, name=name: run.faults[name]
            for name in sorted({name for run in runs.values() for name in run.faults})
        },
        "faults and refusals answered otherwise": lambda run: len(run.answers),
        "interruptions while sampling, that hit": lambda run: _hits(run, "sampler"),
        "interruptions while quantizing, that hit": lambda run: _hits(run, "quantizer"),
        "unload requests": lambda run: run.unloads,
        "server lives": lambda run: "yes" if run.alive else "NO",
        "resident when warm, MB": lambda run: f"{run.start:.0f}",
        "resident at the end, MB": lambda run: f"{run.end:.0f}",
        "most resident, MB": lambda run: f"{max(run.resident) / 1e6:.0f}",
        "growth per 100 prompts, MB": lambda run: f"{run.growth:+.1f}",
        "main memory free as reported, warm / end, GB": lambda run: " / ".join(
            f"{free / 1e9:.2f}" for free in run.free
        ),
        "seconds": lambda run: f"{run.seconds:.0f}",
    }
    lines = [f"| | {' | '.join(runs)} |", "|---" * (1 + len(runs)) + "|"]
    for name, value in rows.items():
        lines.append(f"| {name} | {' | '.join(str(value(run)) for run in runs.values())} |")
    return "\n".join(lines)


def _hits(run: Soak, node: str) -> str:
    return f"{run.hits[node]} of {run.interrupted[node]}"
