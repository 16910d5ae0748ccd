"""Writing a safetensors file byte by byte the same each time.

The safetensors library keeps metadata in a hash map, whose order changes from run to run; here
everything is sorted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import VQError
from .atomic import atomic_write
from .header import NAMES, Entry


@dataclass(frozen=True)
class Stored:
    """A tensor to write, made only when its turn comes.

    Attributes:
        dtype, shape: as ``read`` will give them.
        read: makes the tensor, on any device.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Stored:
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def lay_out(tensors: Mapping[str, Stored]) -> dict[str, Entry]:
    """Where each tensor goes: larger dtypes first, so that all are aligned, then by name.

    Raises:
        VQError: a tensor has a dtype that a file cannot hold.
    """
    entries, end = {}, 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        tensor = tensors[name]
        if tensor.dtype not in NAMES:
            raise VQError(
                f"tensor {name}: found dtype {tensor.dtype}, expected one of "
                f"{', '.join(NAMES.values())}; convert it before saving"
            )
        begin, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        entries[name] = Entry(tensor.dtype, tensor.shape, begin, end)
    return entries


def header_bytes(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """Length and index, padded with spaces so that the data begins at a multiple of 8."""
    index: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for name, entry in entries.items():
        index[name] = {
            "dtype": NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = compact_json(index).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def compact_json(value: object) -> str:
    """JSON without spaces, everything outside ASCII as it is."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Stored], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file atomically, one tensor in memory at a time.

    Raises:
        VQError: see ``lay_out`` and ``atomic_write``.
    """
    entries = lay_out(tensors)
    with atomic_write(path) as file:
        file.write(header_bytes(entries, metadata))
        for name in entries:
            file.write(_bytes(name, tensors[name]))


def data_sha256(tensors: Mapping[str, Stored]) -> str:
    """SHA-256 in hex of all tensor data as ``write_file`` lays it out."""
    digest = hashlib.sha256()
    for name in lay_out(tensors):
        digest.update(_bytes(name, tensors[name]))
    return digest.hexdigest()


def _bytes(name: str, stored: Stored) -> memoryview:
    tensor = stored.read().detach().to("cpu")
    if tensor.dtype != stored.dtype or tuple(tensor.shape) != stored.shape:
        raise VQError(
            f"tensor {name}: found {tensor.dtype} {list(tensor.shape)}, expected {stored.dtype} "
            f"{list(stored.shape)}; this is a fault of what made it"
        )
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
