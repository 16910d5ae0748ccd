"""Quantizations that were made before, on disk: ordinary VQ checkpoints named by what they hold.

What a file holds is described by its key; see ``cache_key.py``.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import checkpoint
from .checkpoint.header import read_header
from .errors import VQError
from .model import VQModel

log = logging.getLogger(__name__)

FOLDER, SIZE = "COMFY_VQ_CACHE", "COMFY_VQ_CACHE_GB"
"""Environment variables: a folder, or ``off``; and how much may lie there."""
_DEFAULT_GB = 20.0
_OFF = ("off", "0")
_BLOCK = 1 << 22
_ABANDONED_SECONDS = 86400.0
_WHEN, _SECONDS = "comfy_vq_quantized", "comfy_vq_seconds"


@dataclass(frozen=True)
class Entry:
    """An earlier quantization.

    Attributes:
        model: its tensors mapped from the file, which stay readable if the file is removed.
        when: local date and time at which it was made.
        seconds: that it took.
    """

    model: VQModel
    when: str
    seconds: float


@dataclass(frozen=True)
class Cache:
    """A folder of quantizations, the least recently used of which make room for new ones.

    Several processes may share it: files appear whole or not at all. Whatever goes wrong with
    the disk is logged, and then it is as if the entry were not there.

    Attributes:
        folder: made when it is first written to.
        limit: bytes of all entries together.
    """

    folder: Path
    limit: int

    def find(self, key: str) -> Entry | None:
        """The entry of a key, which then counts as used; a damaged one is removed."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            _verify(path)
            metadata, model = checkpoint.inspect(path).metadata, checkpoint.load(path)
            entry = Entry(model, metadata.get(_WHEN, ""), float(metadata.get(_SECONDS, "nan")))
        except (VQError, OSError, ValueError) as error:
            log.warning("VQ: a damaged cache entry is removed: %s", error)
            _remove(path)
            return None
        with suppress(OSError):  # it only counts as less recently used than it was
            os.utime(path)
        return entry

    def store(self, key: str, model: VQModel, seconds: float) -> Entry | None:
        """Keep a quantization; None where that was not possible, or it is over the limit alone."""
        if model.nbytes > self.limit:
            log.info(
                "VQ: %.1f GB are not kept in the cache of at most %.1f GB; see %s",
                model.nbytes / 1e9,
                self.limit / 1e9,
                SIZE,
            )
            return None
        path, when = self._path(key), time.strftime("%Y-%m-%d %H:%M")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(path, model, extra={_WHEN: when, _SECONDS: f"{seconds:.1f}"})
            stored = checkpoint.load(path)
        except (VQError, OSError) as error:
            log.warning("VQ: the quantization is not kept in the cache: %s", error)
            return None
        self._make_room(path)
        return Entry(stored, when, seconds)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self, newest: Path) -> None:
        """Remove what was used least recently until the rest is within the limit."""
        found = []
        for path in self.folder.iterdir():
            with suppress(OSError):  # another process has removed it
                status = path.stat()
                if path.suffix == ".safetensors":
                    found.append((status.st_mtime_ns, status.st_size, path))
                elif path.suffix == ".tmp" and status.st_mtime < time.time() - _ABANDONED_SECONDS:
                    _remove(path)
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            if path != newest and _remove(path):
                total -= size


def configured(default: Path) -> Cache | None:
    """The cache that the environment asks for, in ``default`` unless it names a folder.

    Returns:
        None where it is switched off.
    """
    folder = os.environ.get(FOLDER, "").strip()
    if folder.lower() in _OFF:
        return None
    given = os.environ.get(SIZE, "").strip()
    try:
        gigabytes = float(given or _DEFAULT_GB)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        log.warning("VQ: %s: found %r, expected a number; taken as %g", SIZE, given, _DEFAULT_GB)
        gigabytes = _DEFAULT_GB
    return Cache(Path(folder).expanduser() if folder else default, int(gigabytes * 1e9))


def _verify(path: Path) -> None:
    """Compare the tensor data with the hash that the file itself holds.

    A reader checks all but the codes, every one of which is valid.

    Raises:
        VQError: the file is damaged.
    """
    header, digest = read_header(path), hashlib.sha256()
    with path.open("rb") as file:
        file.seek(header.data_start)
        while block := file.read(_BLOCK):
            digest.update(block)
    stated = header.metadata.get("modelspec.hash_sha256")
    if stated != f"0x{digest.hexdigest()}":
        raise VQError(f"{path}: the tensor data is not what was written")


def _remove(path: Path) -> bool:
    """Whether a file is gone. Windows keeps one that is mapped."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.info("VQ: %s stays in the cache: %s", path.name, error)
        return False
    return True
