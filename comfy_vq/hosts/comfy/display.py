"""Progress of long work, as the host shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import comfy.model_management
import comfy.utils

from ...estimate import duration
from ...progress import Progress

log = logging.getLogger(__name__)

_SHOW_SECONDS = 0.5
_LOG_SECONDS = 10.0


def raise_if_interrupted(_: object = None) -> None:
    """Raise the host's exception if the user has cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def bar_step(total: int) -> Callable[[], None]:
    """Moves the bar of the running node by one of so many, and passes on the user's wish to stop."""
    bar = comfy.utils.ProgressBar(total)

    def step() -> None:
        raise_if_interrupted()
        bar.update(1)

    return step


class Display:
    """Shows progress in the interface and the log, and passes on the user's wish to stop."""

    def __init__(self, node_id: str | None) -> None:
        self._bar: comfy.utils.ProgressBar | None = None
        self._node_id = node_id
        self._shown = self._logged = time.perf_counter()

    def say(self, line: str) -> None:
        log.info("VQ: %s", line)
        _show_text(line, self._node_id)

    def __call__(self, progress: Progress) -> None:
        raise_if_interrupted()
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(progress.total)
        self._bar.update_absolute(progress.done)
        now = time.perf_counter()
        line = f"{100 * progress.done / max(1, progress.total):.0f} %"
        if progress.seconds_left is not None:
            line += f", {duration(progress.seconds_left)} left"
        if now - self._shown >= _SHOW_SECONDS:
            self._shown = now
            _show_text(line, self._node_id)
        if now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.info("VQ: %s (%s)", line, progress.layer)


def _show_text(text: str, node_id: str | None) -> None:
    """Put a line under the node, where a server is running."""
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
