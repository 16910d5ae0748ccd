"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .refusal import refuse

try:
    import fcntl
except ImportError:  # Windows, where a file that is being written cannot be removed anyway
    fcntl = None


@contextmanager
def atomic_write(path: str | os.PathLike[str], size: int = 0) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` once the block ends without an error.

    Until then it lies beside ``path`` under a name that ends in ``.tmp``. After an error it is
    removed and an earlier file at ``path`` is untouched; after a crash or a loss of power there
    is the earlier file or the new one, whole, and what lies beside it goes with the next write of
    the same name. A link at ``path`` is replaced; what it points to is untouched.

    Args:
        size: bytes that will be written, as far as known: refused at once where they cannot fit.

    Raises:
        VQError: the operating system refused to write (no space, no permission, no folder).
    """
    path = Path(path)
    try:
        _remove_abandoned(path)
        _check_destination(path, size)
        with _temporary(path) as (file, temporary):
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()  # Windows does not rename an open file
            os.replace(temporary, path)
    except OSError as error:
        refuse(
            path,
            "cannot be written",
            error.strerror or str(error),
            "a folder that exists, may be written to and has space left",
            "what was there before is untouched: free some space, or choose another folder",
        )
    with suppress(OSError):  # the file is whole; some network folders cannot be synchronized
        _sync_folder(path.parent)


def _check_destination(path: Path, size: int) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    free = free_bytes(path.parent)
    if free < size:
        refuse(
            path,
            "cannot be written",
            f"{free} bytes free",
            f"at least {size}",
            "nothing was written: free some space, or choose another folder",
        )


def free_bytes(folder: Path) -> float:
    """What can still be written to a folder's disk; inf where the system does not know."""
    disk = shutil.disk_usage(folder)
    return disk.free if disk.total > 0 else math.inf


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside ``path``, locked until the block ends, when it is removed if still there."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as file, _locked(file):
            if not temporary.exists():  # taken for abandoned before it was locked
                continue
            try:
                yield file, temporary
                return
            finally:
                with suppress(OSError):  # a full disk, which was reported already
                    file.close()
                temporary.unlink(missing_ok=True)


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """Tells other processes that a living one has this file, even after it was closed here."""
    if fcntl is None:
        yield
        return
    lock = os.dup(file.fileno())
    try:
        with suppress(OSError):  # a network folder that knows no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes have left of writing ``path``: what no living one has locked."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for name in os.listdir(path.parent):
        leftover = path.with_name(name) if ours.fullmatch(name) else None
        if leftover is None or leftover.is_symlink() or not leftover.is_file():
            continue
        with suppress(OSError):  # locked, or not ours to remove
            if fcntl is None:
                leftover.unlink()
                continue
            with leftover.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable. Windows has no such call for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
