"""VQ checkpoints that a reader takes. Those that it refuses are in ``test_bad_input.py``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint

from .conftest import Damage


def test_newer_minor_is_read(damage: Damage) -> None:
    damage.index["__metadata__"]["vq.version"] = "1.7"
    damage.index["__metadata__"]["vq.something"] = "new"
    path = damage.write()
    assert checkpoint.inspect(path).version == "1.7"
    assert checkpoint.load(path).decode()


def test_is_vq(saved: Path, damage: Damage, tmp_path: Path) -> None:
    save_file({"a.weight": torch.zeros(8, 8)}, tmp_path / "dense.safetensors")
    assert not checkpoint.is_vq(tmp_path / "dense.safetensors")
    assert checkpoint.is_vq(saved)
    damage.index["__metadata__"]["vq.version"] = "2.0"
    assert checkpoint.is_vq(damage.write()), "a newer version is listed, so that its error is seen"
    assert not checkpoint.is_vq(tmp_path) and not checkpoint.is_vq(tmp_path / "none")
    for content in (b"", b"junk", b"\0" * 100, b"\xff" * 100, b'\x10\0\0\0\0\0\0\0{"vq":1}'):
        (tmp_path / "junk").write_bytes(content)
        assert not checkpoint.is_vq(tmp_path / "junk")
    index = {"__metadata__": {"workflow": json.dumps({"vq.version": "1.0"})}}
    text = json.dumps(index).encode()
    (tmp_path / "mention").write_bytes(len(text).to_bytes(8, "little") + text)
    assert not checkpoint.is_vq(tmp_path / "mention")
