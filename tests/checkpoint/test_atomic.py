"""A failed write leaves no trace; a finished one is whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored, atomic
from comfy_vq.checkpoint.atomic import atomic_write
from comfy_vq.errors import VQError
from comfy_vq.model import VQModel


def test_replaces_an_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"first", b"second"):
        with atomic_write(path) as file:
            file.write(content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


def test_invisible_until_finished(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.safetensors") as file:
        file.write(b"x")
        assert not (tmp_path / "a.safetensors").exists()
        assert all(name.endswith(".tmp") for name in os.listdir(tmp_path))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, VQError])
def test_an_error_on_the_way(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"earlier")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_system_refuses(
    saved: Path, model: VQModel, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = saved.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, call, refuse)
    with pytest.raises(VQError, match="No space left on device") as error:
        checkpoint.save(saved, VQModel(model.layers, {}))
    assert str(saved) in str(error.value)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"earlier")
    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r": (real(self, mode), real(Path("/dev/full"), "wb"))[1]
    )
    with pytest.raises(VQError, match="space"):
        checkpoint.write_dense(path, {"a": torch.zeros(1 << 16)})
    monkeypatch.undo()
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == [path.name]


def test_no_such_folder(tmp_path: Path, model: VQModel) -> None:
    with pytest.raises(VQError, match="cannot be written.*folder exists"):
        checkpoint.save(tmp_path / "none" / "a.safetensors", model)
    assert not os.listdir(tmp_path)


def test_a_tensor_that_cannot_be_made(saved: Path) -> None:
    before = saved.read_bytes()

    def fail() -> torch.Tensor:
        raise RuntimeError("out of memory")

    broken = Stored(torch.float32, (2,), fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoint.write_dense(saved, {"a": torch.zeros(4, dtype=torch.float64), "b": broken})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
