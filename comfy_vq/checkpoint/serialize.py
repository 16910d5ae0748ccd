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

from .atomic import atomic_write
from .header import METADATA, NAMES, Entry
from .refusal import refuse


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


def lay_out(path: str | os.PathLike[str], tensors: Mapping[str, Stored]) -> dict[str, Entry]:
    """Where each tensor goes: larger dtypes first, so that all are aligned, then by name.

    Args:
        path: of the file to write, for messages.

    Raises:
        VQError: a tensor has a dtype that a file cannot hold.
    """
    entries, end = {}, 0
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        tensor = tensors[name]
        if name == METADATA:
            refuse(path, "tensors", name, "a name that is not reserved", "rename it in the source")
        if tensor.dtype not in NAMES:
            expected = f"one of {', '.join(NAMES.values())}"
            where, found = f"tensor {name}, dtype", str(tensor.dtype)
            refuse(path, where, found, expected, "convert it before saving")
        begin, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        entries[name] = Entry(tensor.dtype, tensor.shape, begin, end)
    return entries


def header_bytes(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """Length and index, padded with spaces so that the data begins at a multiple of 8."""
    index: dict[str, object] = {METADATA: dict(sorted(metadata.items()))} if metadata else {}
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
    entries = lay_out(path, tensors)
    header = header_bytes(entries, metadata)
    size = len(header) + sum(entry.nbytes for entry in entries.values())
    with atomic_write(path, size) as file:
        file.write(header)
        for name in entries:
            file.write(_bytes(path, name, tensors[name]))


def data_sha256(path: str | os.PathLike[str], tensors: Mapping[str, Stored]) -> str:
    """SHA-256 in hex of all tensor data as ``write_file`` lays it out."""
    digest = hashlib.sha256()
    for name in lay_out(path, tensors):
        digest.update(_bytes(path, name, tensors[name]))
    return digest.hexdigest()


def _bytes(path: str | os.PathLike[str], name: str, stored: Stored) -> memoryview:
    tensor = stored.read().detach().to("cpu")
    if tensor.dtype != stored.dtype or tuple(tensor.shape) != stored.shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        expected = f"{stored.dtype} {list(stored.shape)}"
        refuse(path, f"tensor {name}", found, expected, "this is a fault of what made it")
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
