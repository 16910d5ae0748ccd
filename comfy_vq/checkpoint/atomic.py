"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import VQError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` once the block ends without an error.

    Until then it lies beside ``path`` under a name that ends in ``.tmp``. After an error it is
    removed and an earlier file at ``path`` is untouched; after a crash or a loss of power there
    is the earlier file or the new one, whole.

    Raises:
        VQError: the operating system refused to write (no space, no permission, no folder).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise VQError(
            f"{path}: cannot be written ({error.strerror or error}); nothing was changed: check "
            "that the folder exists, may be written to and has space left"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself durable. Windows has no such call for folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
