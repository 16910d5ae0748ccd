"""A save that is killed at any instant leaves the earlier file or the new one, whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
KILLS = 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_while_saving(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.checkpoint.killed", str(tmp_path), str(KILLS)]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    hits = re.match(rf"{KILLS} kills, of which (\d+) left half", done.stdout)
    assert hits and int(hits[1]) > KILLS // 10
