"""A failed write leaves no trace; a finished one is whole; what a killed one left is cleared away."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored, atomic
from comfy_vq.checkpoint.atomic import atomic_write
from comfy_vq.errors import VQError
from comfy_vq.model import VQModel

CHECKOUT = Path(__file__).resolve().parents[2]
LARGE = {"a": torch.zeros(1 << 20)}
"""4 MiB."""


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


@pytest.mark.parametrize("target", ["other", "none"], ids=["whole", "dangling"])
def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path, target: str) -> None:
    (tmp_path / "other").write_bytes(b"earlier")
    link = tmp_path / "a"
    link.symlink_to(tmp_path / target)
    with atomic_write(link) as file:
        file.write(b"new")
    assert not link.is_symlink() and link.read_bytes() == b"new"
    assert (tmp_path / "other").read_bytes() == b"earlier"
    assert not (tmp_path / "none").exists()


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


def test_a_folder_that_cannot_be_synchronized_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(atomic, "_sync_folder", refuse)
    checkpoint.write_dense(tmp_path / "a", LARGE)
    assert checkpoint.open_dense(tmp_path / "a").keys() == ["a"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.call(mount, stderr=subprocess.DEVNULL):
        reason = "no test of a disk that really fills up: this user cannot mount one"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(full_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = full_disk / "a.safetensors"
    path.write_bytes(b"earlier")
    with pytest.raises(VQError, match=r"found \d+ bytes free, expected at least 4194\d+"):
        checkpoint.write_dense(path, LARGE)
    roomy = shutil.disk_usage(full_disk)._replace(free=1 << 40)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: roomy)  # as others fill it meanwhile
    with pytest.raises(VQError, match="found No space left on device"):
        checkpoint.write_dense(path, LARGE)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(full_disk) == [path.name]


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(VQError, match="found File too large"):
            checkpoint.write_dense(path, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions")
def test_a_folder_that_may_not_be_written_to(saved: Path, model: VQModel) -> None:
    before = saved.read_bytes()
    saved.parent.chmod(0o500)
    user = os.geteuid()
    try:
        if user == 0:  # whom no permission stops
            os.seteuid(65534)
        with pytest.raises(VQError, match="found Permission denied"):
            checkpoint.save(saved, VQModel(model.layers, {}))
    finally:
        os.seteuid(user)
        saved.parent.chmod(0o700)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_an_unknown_size_of_the_disk_is_no_reason_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = shutil.disk_usage(tmp_path)._replace(total=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: unknown)
    checkpoint.write_dense(tmp_path / "a", LARGE)


def test_a_tensor_that_cannot_be_made(saved: Path) -> None:
    before = saved.read_bytes()

    def fail() -> torch.Tensor:
        raise RuntimeError("out of memory")

    broken = Stored(torch.float32, (2,), fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoint.write_dense(saved, {"a": torch.zeros(4, dtype=torch.float64), "b": broken})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_what_a_killed_write_left_goes_with_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "a[1].safetensors"
    abandoned = tmp_path / f".{path.name}.0123abcd.tmp"
    others = [".b.safetensors.0123abcd.tmp", f".{path.name}.notes.tmp", f"{path.name}.tmp"]
    for name in (abandoned.name, *others):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.write_dense(path, LARGE)
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, *others])


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    """Both finish, and the last one stays."""
    path = tmp_path / "a"
    code = (
        "import sys; from comfy_vq.checkpoint.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'theirs'); file.flush(); print('written', flush=True); input()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as other:
        assert other.stdout and other.stdin and other.stdout.readline() == "written\n"
        with atomic_write(path) as file:
            file.write(b"ours")
        assert path.read_bytes() == b"ours"
        assert len(os.listdir(tmp_path)) == 2
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.wait(60) == 0
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="locks tell the living from the dead there")
def test_a_file_taken_for_abandoned_as_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may look between the making and the locking."""
    real, made = atomic.fcntl.flock, []

    def late(file: int, how: int) -> None:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].unlink()
        real(file, how)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    with atomic_write(tmp_path / "a") as file:
        file.write(b"x")
    assert made and os.listdir(tmp_path) == ["a"]
