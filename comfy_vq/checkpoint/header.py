"""The header of a safetensors file, read and checked before any tensor is allocated.

8 bytes   length N of the index, unsigned, little endian
N bytes   the index, a JSON object: tensor name -> dtype, shape, data_offsets; __metadata__
the rest  tensor data; offsets count from here and leave neither gaps nor overlaps
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from .refusal import COPY_AGAIN, refuse
from .strict_json import parse_object

MAX_INDEX = 100_000_000
"""Bytes of the longest index that the safetensors library reads."""
METADATA = "__metadata__"
"""What stands among the names of tensors for the metadata."""
_MAX_RANK = 8
_MAX_SIZE = 2**48

_DENSE_FIRST = (
    "convert it to .safetensors first, for instance by loading it in ComfyUI and saving it with "
    "ModelSave"
)
_OTHER_KINDS = {
    b"PK\x03\x04": ("a zipped pickle", _DENSE_FIRST),
    b"\x80": ("a pickle", _DENSE_FIRST),
    b"GGUF": ("a GGUF file", _DENSE_FIRST),
    b"<": ("a web page", "download the file itself, not the page that describes it"),
    b"version ": ("a Git LFS pointer", "download the file that it points to: git lfs pull"),
}
"""How files begin that are often taken for safetensors ones, and what to do about each."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of dtypes in a file."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies. ``begin`` and ``end`` count bytes from the start of the data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class FileHeader:
    """A checked header.

    Attributes:
        path: of the file.
        entries: tensors by name.
        metadata: the strings under ``__metadata__``.
        data_start: offset in the file at which tensor data begins.
    """

    path: Path
    entries: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)
    data_start: int = 0


def read_header(path: str | os.PathLike[str], limit: int = MAX_INDEX) -> FileHeader:
    """Read and check the header of a safetensors file.

    Args:
        limit: bytes of index to accept.

    Raises:
        VQError: there is no such file, it is of another kind, or its header breaks a rule.
    """
    path = Path(path)
    index, size = _index_bytes(path, limit)
    members = parse_object(path, "header", index)
    metadata = _metadata(path, members.pop(METADATA, {}))
    entries = {name: _entry(path, name, value) for name, value in members.items()}
    data_start = 8 + len(index)
    _check_ranges(path, entries, size - data_start)
    return FileHeader(path, entries, metadata, data_start)


def _index_bytes(path: Path, limit: int) -> tuple[bytes, int]:
    """The index and the size of the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its other end
            refuse(path, "file", "a folder, a pipe or a device", "a file", "check the path")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                _fail(path, "file size", f"{size} bytes", "a safetensors file, at least 8 bytes")
            (length,) = struct.unpack("<Q", start)
            if length > size - 8:
                _refuse_other_kinds(path, start)
            if length > limit:
                _fail(path, "header length", f"{length} bytes", f"at most {limit}")
            if length > size - 8:
                _fail(
                    path,
                    "header length",
                    f"{length} bytes in a file of {size}",
                    f"at most {size - 8}: the file is cut short or no safetensors file",
                )
            return file.read(length), size
    except OSError as error:
        refuse(path, "cannot be read", str(error.strerror), "a readable file", "check the path")


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    for magic, (kind, advice) in _OTHER_KINDS.items():
        if start.startswith(magic):
            refuse(path, "file", kind, "a safetensors file", advice)


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        _fail(path, METADATA, "other values", "an object of strings")
    return value


def _entry(path: Path, name: str, value: Any) -> Entry:
    where = f"tensor {name}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _fail(path, where, _short(value), "an object of dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        refuse(
            path,
            f"{where}, field dtype",
            _short(dtype),
            f"one of {', '.join(DTYPES)}",
            "a natively quantized model can be loaded in ComfyUI and coded there with VQ Quantize "
            "Model",
        )
    if not _is_sizes(shape, _MAX_SIZE) or len(shape) > _MAX_RANK:
        _fail(path, f"{where}, field shape", _short(shape), f"up to {_MAX_RANK} sizes below 2**48")
    if math.prod(n for n in shape if n) >= 2**63:  # strides of empty tensors overflow, too
        _fail(path, f"{where}, field shape", _short(shape), "sizes whose product is below 2**63")
    if not _is_sizes(offsets, 2**63) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _fail(path, f"{where}, field data_offsets", _short(offsets), "[begin, end]")
    entry = Entry(DTYPES[dtype], tuple(shape), *offsets)
    expected = entry.numel * entry.dtype.itemsize
    if entry.nbytes != expected:
        _fail(
            path,
            f"{where}, field data_offsets",
            f"{entry.nbytes} bytes",
            f"{expected} for {dtype} {shape}",
        )
    return entry


def _is_sizes(value: Any, limit: int) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < limit for n in value)


def _check_ranges(path: Path, entries: dict[str, Entry], data_size: int) -> None:
    """Every byte of data belongs to exactly one tensor."""
    end, before = 0, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            problem = "overlaps" if entry.begin < end else "leaves a gap after"
            found = f"begin {entry.begin}, which {problem} {before}"
            _fail(path, f"tensor {name}, field data_offsets", found, f"begin {end}")
        end, before = entry.end, name
    if end != data_size:
        problem = "the file is cut short" if end > data_size else "the file has bytes to spare"
        _fail(path, "data", f"{data_size} bytes", f"{end} by the header: {problem}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fail(path: Path, where: str, found: str, expected: str) -> NoReturn:
    refuse(path, where, found, expected, COPY_AGAIN)
