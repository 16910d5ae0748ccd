"""Headers of safetensors files. Bad ones are in ``test_bad_input.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq.checkpoint.header import read_header
from comfy_vq.errors import VQError


def test_the_limit_of_its_length(tmp_path: Path) -> None:
    header = b"{" + b" " * 100 + b"}"
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert read_header(path, limit=102).entries == {}
    with pytest.raises(VQError, match="at most 101"):
        read_header(path, limit=101)


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3).half(), "b": torch.tensor(1), "c": torch.zeros(0)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"x": "ö", "y": r"\ud83d\ude00"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"x": "ö", "y": r"\ud83d\ude00"}
    assert {k: (e.dtype, e.shape) for k, e in header.entries.items()} == {
        k: (t.dtype, tuple(t.shape)) for k, t in tensors.items()
    }
