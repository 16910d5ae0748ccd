"""``docs/format.md`` describes what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_vq.checkpoint.fields import FIELDS
from comfy_vq.checkpoint.header import DTYPES
from comfy_vq.checkpoint.layout import RESERVED

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (CHECKOUT / "docs/format.md").read_text(encoding="utf-8")


def test_names_everything(page: str) -> None:
    for name in (*(f.key for f in FIELDS), *DTYPES, *RESERVED):
        assert name in page


def test_the_example_is_what_its_command_prints(page: str) -> None:
    """Codes may differ between processors, so lines are compared up to their data."""
    command = [sys.executable, "-m", "docs.format_example"]
    printed = subprocess.run(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout
    shown = page[page.index("    " + printed.splitlines()[0]) :]
    assert places(shown) == places(printed)
    assert len(places(shown)) == 12


def places(text: str) -> list[tuple[str, ...]]:
    """Offset, name, dtype and shape of each tensor."""
    return re.findall(r"^ *(\d+)  [0-9a-f .]+ (vq\.\S+ \S+ \[.*\])$", text, re.MULTILINE)
