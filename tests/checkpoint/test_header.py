"""Headers that no valid safetensors file has."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.checkpoint.header import read_header
from comfy_vq.errors import VQError


def write(path: Path, index: str, data: bytes = b"", length: int | None = None) -> Path:
    header = index.encode()
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)
    return path


def entry(dtype: Any = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


HUGE = "9" * 5000
BAD_INDEXES = {
    "not JSON": ("{", "not JSON"),
    "not UTF-8 text": ("\x00\x01", "not JSON"),
    "not an object": ("[]", "expected a JSON object"),
    "nested too deep": ("[" * 100_000, "not JSON"),
    "key twice": (f'{{"a":{entry()},"a":{entry()}}}', "'a' twice"),
    "key twice inside": ('{"a":{"dtype":"U8","dtype":"I8"}}', "'dtype' twice"),
    "metadata of numbers": ('{"__metadata__":{"a":1}}', "__metadata__"),
    "metadata a list": ('{"__metadata__":[]}', "__metadata__"),
    "no offsets": ('{"a":{"dtype":"U8","shape":[4]}}', "tensor a"),
    "entry a number": ('{"a":NaN}', "not JSON"),
    "unknown dtype": (f'{{"a":{entry(dtype=chr(34) + "F4" + chr(34))}}}', "field dtype"),
    "dtype a list": (f'{{"a":{entry(dtype="[]")}}}', "field dtype"),
    "negative size": (f'{{"a":{entry(shape="[-4]")}}}', "field shape"),
    "fractional size": (f'{{"a":{entry(shape="[4.0]")}}}', "field shape"),
    "boolean size": (f'{{"a":{entry(shape="[4,true]")}}}', "field shape"),
    "absurd size": (f'{{"a":{entry(shape=f"[0,{10**30}]", offsets="[0,0]")}}}', "field shape"),
    "absurd number": (f'{{"a":{entry(shape=f"[{HUGE}]")}}}', "not JSON"),
    "absurd rank": (f'{{"a":{entry(shape="[" + "1," * 50 + "4]")}}}', "field shape"),
    "shape and bytes differ": (f'{{"a":{entry(shape="[5]")}}}', "expected 5"),
    "one offset": (f'{{"a":{entry(offsets="[0]")}}}', "field data_offsets"),
    "offsets backwards": (f'{{"a":{entry(offsets="[4,0]")}}}', "field data_offsets"),
    "gap at the start": (f'{{"a":{entry(shape="[3]", offsets="[1,4]")}}}', "gap"),
    "overlap": (f'{{"a":{entry()},"b":{entry(shape="[2]", offsets="[2,4]")}}}', "overlaps a"),
    "beyond the end": (f'{{"a":{entry(shape="[8]", offsets="[0,8]")}}}', "cut short"),
    "bytes to spare": (f'{{"a":{entry(shape="[2]", offsets="[0,2]")}}}', "bytes to spare"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_index(tmp_path: Path, case: str) -> None:
    index, message = BAD_INDEXES[case]
    path = write(tmp_path / "bad.safetensors", index, b"\0" * 4)
    with pytest.raises(VQError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value)
    assert "expected" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("length", [100, 10**9, 2**63, 2**64 - 1])
def test_header_longer_than_the_file(tmp_path: Path, length: int) -> None:
    with pytest.raises(VQError, match="header length"):
        read_header(write(tmp_path / "bad.safetensors", "{}", length=length))


def test_header_over_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.safetensors", "{" + " " * 100 + "}")
    assert read_header(path).entries == {}
    with pytest.raises(VQError, match="at most 50"):
        read_header(path, limit=50)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_no_header_at_all(tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(b"\0" * size)
    with pytest.raises(VQError, match="at least 8 bytes"):
        read_header(path)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(VQError, match="cannot be read"):
            read_header(path)
        assert not checkpoint.is_vq(path)


def test_other_kinds_of_file_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "zip.safetensors")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"a": [0.0] * 50}, protocol=2))
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\3" * 100)
    for name, kind in (
        ("zip.safetensors", "zipped"),
        ("old.ckpt", "pickle"),
        ("model.gguf", "GGUF"),
    ):
        with pytest.raises(VQError, match=f"{kind}.*convert it to .safetensors"):
            checkpoint.open_dense(tmp_path / name)


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3).half(), "b": torch.tensor(1), "c": torch.zeros(0)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"x": "ö"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"x": "ö"}
    assert {k: (e.dtype, e.shape) for k, e in header.entries.items()} == {
        k: (t.dtype, tuple(t.shape)) for k, t in tensors.items()
    }
