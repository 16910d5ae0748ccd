"""Every bad file is one clear error, and nothing that was saved before is lost.

The cases are also what ``python -m benchmarks.bad_input`` prints for docs/errors.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from unittest import mock

import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.checkpoint import reader
from comfy_vq.quantize import quantize

from .bad_files import CASES, HEADERS, VALUES, build, complaint, dense

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", CASES)
def test_the_message_says_where_what_and_what_to_do(tmp_path: Path, name: str) -> None:
    case = build(CASES[name], tmp_path)
    files = {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    path, message = complaint(case, tmp_path)
    assert re.search(case.message, message), message
    assert message.startswith(f"{path}: ")
    assert re.fullmatch(r".+: found .+, expected .+; .+", message)
    assert len(message) < 1000 and message.isprintable()
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == files


@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_header_is_refused_before_anything_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    case = build(CASES[name], tmp_path)
    for module, function in ((reader, "safe_open"), (torch, "empty"), (torch, "zeros")):
        monkeypatch.setattr(module, function, mock.Mock(side_effect=AssertionError(function)))
    tracemalloc.start()
    try:
        complaint(case, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", VALUES)
def test_bad_values_leave_the_header_readable(tmp_path: Path, name: str) -> None:
    assert checkpoint.inspect(CASES[name].build(tmp_path)).layers


GOOD_SOURCES = {
    "constant": torch.full((64, 128), 0.5),
    "zero": torch.zeros(64, 128).half(),
    "one zero row": torch.randn(64, 128, generator=torch.Generator().manual_seed(0)) *
    (torch.arange(64) > 0)[:, None],
    "tiny": torch.ones(1, 1),
    "empty": torch.zeros(0, 8),
    "empty rows": torch.zeros(8, 0, 3, 3),
    "width 12": torch.linspace(-1, 1, 64 * 12).reshape(64, 12),
    "convolution of width 3": torch.linspace(-1, 1, 64 * 27).reshape(64, 3, 3, 3),
    "width 1": torch.linspace(-1, 1, 64).reshape(64, 1),
    "beyond half scales": torch.full((64, 128), 1e9),
    "below half scales": torch.full((64, 128), 1e-9),
    "subnormal": torch.full((64, 128), 1e-40),
    "largest half": torch.full((64, 128), 65504.0).half(),
    "float8": torch.ones(64, 128).to(torch.float8_e4m3fn),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_SOURCES)
def test_odd_sources_are_quantized_saved_loaded_and_decoded(tmp_path: Path, name: str) -> None:
    odd = GOOD_SOURCES[name]
    source = checkpoint.open_dense(dense(x__weight=odd)(tmp_path))
    checkpoint.save(tmp_path / "a.safetensors", quantize(source, 5.0, effort="fast"))
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    decoded = loaded.decode(torch.float32)["x.weight"].float()
    assert decoded.shape == odd.shape and bool(torch.isfinite(decoded).all())
    error = (decoded - odd.float()).norm() / odd.float().norm().clamp(min=1e-30)
    assert float(error) < 0.5
    if name.endswith("half scales") or name.startswith(("empty", "subnormal")):
        assert torch.equal(loaded.dense["x.weight"], odd)


def test_the_page_shows_what_its_command_prints() -> None:
    """But for numbers, which a new version may change."""
    command = [sys.executable, "-m", "benchmarks.bad_input"]
    printed = subprocess.run(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout
    page = (CHECKOUT / "docs/errors.md").read_text(encoding="utf-8")
    assert printed.count("\n") == len(CASES) + 2
    assert re.sub(r"\d+", "0", printed) in re.sub(r"\d+", "0", page)
