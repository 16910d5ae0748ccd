"""What of a long run is done, so that the same command goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.atomic import atomic_write
from ..errors import VQError


@dataclass
class Clock:
    """Of a part; ``least`` is what it took at least, where it went on from an earlier attempt."""

    least: float = 0.0


class Ledger:
    """Parts that are done, and the seconds that each took: ``run.json`` in a folder.

    Args:
        folder: made where it is missing.
        about: settings that all parts depend on, by name.

    Raises:
        VQError: the folder belongs to a run of other settings, names the first that differs; or it cannot
            be used.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.folder = folder
        self._path = folder / "run.json"
        self._about = dict(about)
        self._seconds: dict[str, float] = {}
        known: Mapping[str, str] = self._about
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                earlier = json.loads(self._path.read_text("utf-8"))
                known, self._seconds = dict(earlier["about"]), dict(earlier["seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VQError(f"{folder}: cannot be used ({error}); name another with --out") from error
        self._refuse_other(known)

    def done(self, part: str) -> bool:
        return part in self._seconds

    def seconds(self, *parts: str) -> float:
        """Of some parts, all of which are done."""
        return sum(self._seconds[part] for part in parts)

    @contextmanager
    def timed(self, part: str) -> Iterator[Clock]:
        """The part is done once the block ends without an error."""
        started, clock = time.monotonic(), Clock()
        yield clock
        self._seconds[part] = max(time.monotonic() - started, clock.least)
        text = json.dumps({"about": self._about, "seconds": self._seconds}, indent=1)
        with atomic_write(self._path) as file:
            file.write(text.encode())

    def _refuse_other(self, known: Mapping[str, str]) -> None:
        for name in sorted(known.keys() | self._about.keys()):
            if known.get(name) != self._about.get(name):
                raise VQError(
                    f"{self._path}, {name}: found {known.get(name)} from an earlier run, expected "
                    f"{self._about.get(name)}; repeat that run's command, or name another folder with --out"
                )
