"""Test suites in processes beside each other, as ``make.py`` runs them. Standard library only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PATIENCE = 30.0
"""Seconds that an interrupted suite has to stop its servers."""
_POLL = 0.1


@dataclass(frozen=True)
class Suite:
    """A process to run: its name, command line, working directory and whole environment."""

    label: str
    command: Sequence[str | Path]
    folder: Path
    variables: Mapping[str, str]


def run_suites(suites: Sequence[Suite], at_once: int) -> dict[str, int]:
    """Exit status of every suite by label; at most ``at_once`` run at a time, in the order given.

    One that runs alone prints as it goes. Of several, each prints all that it has to say when it has
    ended. An interruption is passed on to all that run, once, and then raised again.
    """
    if len(suites) == 1:
        at_once = 1
    waiting, running, statuses = list(suites), list[_Running](), dict[str, int]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_Running(waiting.pop(0), alone=at_once == 1))
            time.sleep(_POLL)
            for ended in [one for one in running if one.process.poll() is not None]:
                running.remove(ended)
                statuses[ended.suite.label] = ended.process.returncode
                ended.tell()
    finally:
        _stop(running)
    return {suite.label: statuses[suite.label] for suite in suites}


class _Running:
    """A suite in a session of its own, so that an interruption reaches it through us alone."""

    def __init__(self, suite: Suite, alone: bool) -> None:
        self.suite = suite
        self.started = time.monotonic()
        self.output: IO[str] | None = None
        if not alone:
            self.output = tempfile.TemporaryFile(  # noqa: SIM115 - closed when it is told
                "w+", encoding="utf-8", errors="replace"
            )
        print(f"-- {suite.label}: running", flush=True)
        self.process = subprocess.Popen(
            list(map(str, suite.command)),
            cwd=suite.folder,
            env=dict(suite.variables),
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=None if self.output is None else subprocess.STDOUT,
            start_new_session=True,
        )

    def tell(self) -> None:
        if self.output is not None:
            self.output.seek(0)
            print(f"\n-- {self.suite.label}\n{self.output.read()}", end="")
            self.output.close()
        minutes = (time.monotonic() - self.started) / 60
        status = self.process.returncode
        print(f"-- {self.suite.label}: status {status} after {minutes:.1f} min", flush=True)

    def interrupt(self) -> None:
        if os.name == "nt":
            self.process.terminate()
        else:
            self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """It, and what it has started."""
        try:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        except (ProcessLookupError, PermissionError):
            pass
        self.process.wait()


def _stop(running: Sequence[_Running]) -> None:
    """Interrupt all that still run, and let them say what they have found so far."""
    for one in running:
        one.interrupt()
    end = time.monotonic() + _PATIENCE
    try:
        for one in running:
            one.process.wait(max(0.0, end - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        print("-- killing what does not stop", file=sys.stderr, flush=True)
    finally:
        for one in running:
            one.kill()
            one.tell()
