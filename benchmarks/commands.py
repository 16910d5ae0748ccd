"""Commands of the package, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from comfy_vq.errors import VQError

COMFY_VQ = (sys.executable, "-m", "comfy_vq")


def run(words: Sequence[str], **environment: str) -> None:
    """``python -m comfy_vq`` with these words, and these variables besides the usual ones.

    Raises:
        VQError: it failed; with the last line that it printed.
    """
    command, variables = [*COMFY_VQ, *words], {**os.environ, **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=variables)
    if done.returncode:
        raise VQError(f"{' '.join(command)}: {last_line(done.stderr)}")


def last_line(told: str) -> str:
    """Of what a process printed to say why it ended; one that was killed may have printed nothing."""
    return (told.strip().splitlines() or ["nothing was printed"])[-1]
