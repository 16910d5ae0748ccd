"""Bad input, case by case: how to make it, and what its message must say."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored
from comfy_vq.checkpoint.reader import MAX_HEADER
from comfy_vq.errors import VQError
from comfy_vq.model import Component, VQModel

from .conftest import Damage, full_components, tiny_model


@dataclass(frozen=True)
class Case:
    """One way for input to be bad.

    Attributes:
        build: makes the file in an empty folder and returns its path.
        message: regular expression that the error must match.
        use: what the user does with the file.
    """

    build: Callable[[Path], Path]
    message: str
    use: Callable[[Path], object] = checkpoint.load


def whole(folder: Path) -> Path:
    """A VQ checkpoint without a fault."""
    path = folder / "bad.safetensors"
    checkpoint.save(path, tiny_model())
    return path


def full(folder: Path) -> Path:
    """A VQ checkpoint with components, without a fault."""
    path = folder / "bad.safetensors"
    checkpoint.save(path, tiny_model(), components=full_components())
    return path


def encoders(folder: Path) -> Path:
    """A VQ file of text encoders alone, without a fault."""
    path = folder / "bad.safetensors"
    checkpoint.save(path, VQModel({}, {}), components={"clip": full_components()["clip"]})
    return path


def content(data: bytes) -> Callable[[Path], Path]:
    """A file of these bytes."""

    def build(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        path.write_bytes(data)
        return path

    return build


def index(text: str, data: bytes = b"\0" * 4, length: int | None = None) -> Callable[[Path], Path]:
    """A safetensors file of this header, of which it may tell another length."""
    header = text.encode()
    size = len(header) if length is None else length
    return content(size.to_bytes(8, "little") + header + data)


def entry(dtype: str = '"U8"', shape: str = "[4]", offsets: str = "[0,4]") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}'


def one(**parts: str) -> Callable[[Path], Path]:
    """A file of four bytes and one tensor ``a``."""
    return index(f'{{"a":{entry(**parts)}}}')


def cut(keep: Callable[[bytes], int]) -> Callable[[Path], Path]:
    """A VQ checkpoint that ends too early, or too late."""

    def build(folder: Path) -> Path:
        path = whole(folder)
        data = path.read_bytes()
        path.write_bytes(data[: keep(data)] if keep(data) < len(data) else data + b"\0" * 9)
        return path

    return build


def damaged(
    change: Callable[[Damage], Path], sound: Callable[[Path], Path] = whole
) -> Callable[[Path], Path]:
    return lambda folder: change(Damage(sound(folder)))


def text(
    key: str, value: str | None, sound: Callable[[Path], Path] = whole
) -> Callable[[Path], Path]:
    """A VQ checkpoint with another metadata field, or without it."""

    def change(damage: Damage) -> Path:
        damage.index["__metadata__"].pop(key)
        if value is not None:
            damage.index["__metadata__"][key] = value
        return damage.write()

    return damaged(change, sound)


def field(
    key: str, change: Callable[[Any], Any], sound: Callable[[Path], Path] = whole
) -> Callable[[Path], Path]:
    return damaged(lambda damage: damage.field(key, change), sound)


def component(name: str, **change: Any) -> Callable[[Path], Path]:
    """A VQ checkpoint with components, of which one is described otherwise."""
    return field("vq.components", lambda records: records[name].update(change), full)


def codec(**change: Any) -> Callable[[Path], Path]:
    return field("vq.codecs", lambda records: records["additive-2"].update(change))


def trellis(**change: Any) -> Callable[[Path], Path]:
    return field("vq.codecs", lambda records: records["trellis-1"].update(change))


def layer(position: int, value: Any) -> Callable[[Path], Path]:
    def change(layers: Any) -> None:
        layers["blocks.0.q"][position] = value

    return field("vq.layers", change)


def renamed(old: str, new: str, sound: Callable[[Path], Path] = whole) -> Callable[[Path], Path]:
    def change(damage: Damage) -> Path:
        damage.index[new] = damage.index.pop(old)
        return damage.write()

    return damaged(change, sound)


def redescribed(tensor: str, **parts: Any) -> Callable[[Path], Path]:
    def change(damage: Damage) -> Path:
        damage.index[tensor] |= parts
        return damage.write()

    return damaged(change)


def filled(
    tensor: str, *values: float, dtype: torch.dtype, sound: Callable[[Path], Path] = whole
) -> Callable[[Path], Path]:
    return damaged(lambda damage: damage.fill(tensor, torch.tensor(values).to(dtype)), sound)


def dense(**tensors: Tensor) -> Callable[[Path], Path]:
    """An ordinary checkpoint of these and of enough sound layers to quantize."""

    def build(folder: Path) -> Path:
        path = folder / "bad.safetensors"
        generator = torch.Generator().manual_seed(0)
        sound = {
            f"blocks.{n}.weight": torch.randn(128, 128, generator=generator) for n in range(24)
        }
        named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
        save_file({**sound, **named}, path)
        return path

    return build


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bad.safetensors")
    return folder / "bad.safetensors"


def as_folder(folder: Path) -> Path:
    (folder / "bad.safetensors").mkdir()
    return folder / "bad.safetensors"


def zipped(folder: Path) -> Path:
    torch.save({"a": torch.zeros(3)}, folder / "bad.safetensors")
    return folder / "bad.safetensors"


def at(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


def read_all(path: Path) -> None:
    """What ``quantize`` does with a source, in short."""
    source = checkpoint.open_dense(path)
    for key in source.keys():  # noqa: SIM118 - not a mapping
        source.read(key)


def save(path: Path, **change: Any) -> None:
    checkpoint.save(path, replace(tiny_model(), **change))


def save_dense(key: str, tensor: Tensor) -> Callable[[Path], None]:
    return lambda path: save(path, dense={key: tensor})


def save_to_full_disk(path: Path) -> None:
    with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(total=10**9, free=1000)):
        save(path)


def save_where_the_disk_fills_up(path: Path) -> None:
    def fill() -> Tensor:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    checkpoint.write_dense(path, {"a": torch.zeros(1 << 16), "b": Stored(torch.half, (2,), fill)})


NAN, INF = float("nan"), float("inf")
HALF = torch.float16
NO_FILES = {
    "empty file": Case(content(b""), "file size: found 0 bytes, expected .* at least 8 bytes"),
    "seven bytes": Case(content(b"\0" * 7), "file size: found 7 bytes"),
    "zeros": Case(content(b"\0" * 100), "text that is not JSON"),
    "pickle": Case(
        content(pickle.dumps({"a": [0.0] * 50}, protocol=2)),
        "found a pickle, .*convert it to .safetensors",
    ),
    "zipped pickle": Case(zipped, "found a zipped pickle, .*convert it to .safetensors"),
    "GGUF file": Case(content(b"GGUF" + b"\3" * 100), "found a GGUF file"),
    "web page": Case(content(b"<!DOCTYPE html><html></html>"), "found a web page.*download the"),
    "Git LFS pointer": Case(
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git lfs"
    ),
    "no such file": Case(at("none.safetensors"), "cannot be read: found No such file"),
    "a folder": Case(as_folder, "found a folder, a pipe or a device"),
    "a pipe": Case(pipe, "found a folder, a pipe or a device"),
    "dense checkpoint given to Load": Case(
        dense(), r"not a VQ checkpoint: found a header without the field vq.version.*UNETLoader"
    ),
}
CUT = {
    "cut within the header": Case(cut(lambda data: 100), "header length.*the file is cut short"),
    "cut within the data": Case(cut(lambda data: len(data) // 2), "data: .*the file is cut short"),
    "last byte missing": Case(cut(lambda data: len(data) - 1), "data: .*the file is cut short"),
    "bytes behind the end": Case(cut(len), "the file has bytes to spare"),
    "header longer than the file": Case(index("{}", length=100), "header length: found 100 bytes"),
    "header of 2**64 - 1 bytes": Case(
        index("{}", length=2**64 - 1), f"{2**64 - 1} bytes, expected at most {MAX_HEADER}"
    ),
    "header over the limit": Case(
        index("{}" + " " * MAX_HEADER), f"{MAX_HEADER + 2} bytes, expected at most {MAX_HEADER}"
    ),
}
JSON = {
    "header no JSON": Case(index("{"), "header: found text that is not JSON"),
    "header a list": Case(index("[]"), "header: found a JSON list, expected a JSON object"),
    "header no UTF-8": Case(content(b"\4\0\0\0\0\0\0\0\xff\xfe\0\0"), "not JSON .*utf-8"),
    "half a surrogate pair": Case(index(r'{"a":"\ud800"}'), "not JSON .*surrogate"),
    "nested 100,000 deep": Case(index("[" * 100_000), "nested deeper, expected at most 32 levels"),
    "nested 100 deep": Case(index("[" * 100 + "]" * 100), "nested deeper"),
    "a tensor twice": Case(index(f'{{"a":{entry()},"a":{entry()}}}'), "the key 'a' twice"),
    "a key of a tensor twice": Case(index('{"a":{"dtype":"U8","dtype":"I8"}}'), "'dtype' twice"),
    "NaN in the header": Case(index('{"a":NaN}'), "NaN is not a JSON number"),
    "number of 5,000 digits": Case(one(shape=f"[{'9' * 5000}]"), "not JSON"),
    "metadata of numbers": Case(index('{"__metadata__":{"a":1}}'), "__metadata__: found other"),
    "metadata a list": Case(index('{"__metadata__":[]}'), "__metadata__: found other"),
    "control characters in a name": Case(
        index(json.dumps({"\x1b[31m\n": 1})), r"tensor \\x1b\[31m\\n: found 1"
    ),
    "name of a million letters": Case(index(json.dumps({"a" * 10**6: 1})), r"tensor a+\.\.\.: "),
}
ENTRIES = {
    "no offsets": Case(index('{"a":{"dtype":"U8","shape":[4]}}'), "tensor a: .*data_offsets"),
    "one offset": Case(one(offsets="[0]"), "tensor a, field data_offsets: found .0."),
    "offsets backwards": Case(one(offsets="[4,0]"), r"field data_offsets: found \[4, 0\]"),
    "gap": Case(one(shape="[3]", offsets="[1,4]"), "found begin 1, which leaves a gap"),
    "overlap": Case(
        index(f'{{"a":{entry()},"b":{entry(shape="[2]", offsets="[2,4]")}}}'),
        "tensor b, .* found begin 2, which overlaps a, expected begin 4",
    ),
    "offsets beyond the end": Case(one(shape="[8]", offsets="[0,8]"), "found 4 bytes, expected 8"),
    "bytes of no tensor": Case(one(shape="[2]", offsets="[0,2]"), "bytes to spare"),
    "shape and bytes differ": Case(one(shape="[5]"), "found 4 bytes, expected 5 for U8"),
    "unknown dtype": Case(one(dtype='"F4"'), "field dtype: found 'F4', expected one of F64"),
    "dtype no string": Case(one(dtype="[]"), r"field dtype: found \[\]"),
    "negative size": Case(one(shape="[-4]"), r"field shape: found \[-4\]"),
    "fractional size": Case(one(shape="[4.0]"), "field shape: found .4.0."),
    "boolean size": Case(one(shape="[4,true]"), "field shape: found .4, True."),
    "absurd size": Case(one(shape=f"[0,{10**30}]", offsets="[0,0]"), "sizes below 2"),
    "absurd shape of nothing": Case(
        one(shape=f"[{2**40},{2**40},0]", offsets="[0,0]"), "sizes whose product is below"
    ),
    "absurd shape": Case(one(shape=f"[{2**40},{2**20}]"), f"found 4 bytes, expected {2**60}"),
    "50 dimensions": Case(one(shape="[" + "1," * 50 + "4]"), "field shape: .*up to 8 sizes"),
}
FIELDS = {
    "newer major version": Case(text("vq.version", "2.0"), "vq.version: found 2.0, .*update comfy"),
    "older major version": Case(text("vq.version", "0.9"), "vq.version: .*quantize again"),
    "version no number": Case(text("vq.version", "1.x"), "vq.version: .*expected major.minor"),
    "unknown required feature": Case(
        text("vq.requires", '["time-travel"]'), "vq.requires: found time-travel, .*update comfy-vq"
    ),
    "required features no list": Case(text("vq.requires", "{}"), "vq.requires: .*a JSON list"),
    **{
        f"no {key}": Case(text(key, None), f"{key}: found nothing")
        for key in ("vq.requires", "vq.codecs", "vq.layers", "vq.plan", "vq.source", "vq.tool")
    },
    **{
        f"{key} {what}": Case(text(key, value), f"{key}: found ")
        for key in ("vq.codecs", "vq.layers", "vq.plan", "vq.source")
        for what, value in (("no JSON", "nonsense"), ("a list", "[]"))
    },
    "key twice in a field": Case(text("vq.plan", '{"a":1,"a":1}'), "vq.plan: .*'a' twice"),
    "Infinity in a field": Case(text("vq.plan", '{"a":Infinity}'), "vq.plan: .*Infinity"),
    "number beyond float64": Case(text("vq.plan", '{"a":1e999}'), "vq.plan: .*1e999 is beyond"),
    "source without a name": Case(
        field("vq.source", lambda source: source.pop("name") and None), "vq.source, field name"
    ),
    "unknown codec": Case(codec(name="lattice"), "vq.codecs, id additive-2: .*'lattice'.*update"),
    "newer codec": Case(codec(version=2), "field version: found 2 of codec additive.*update"),
    "codec version no number": Case(codec(version="1"), "field version: found '1'"),
    "wrong codec field": Case(codec(codebooks=9), "field codebooks: found 9"),
    "other axes": Case(codec(axes="in,out"), "field axes: found 'in,out'"),
    "impossible rotation": Case(
        codec(rotation={"block": 48, "seed": 0}), "rotation.block: found 48"
    ),
    "window that no trellis has": Case(trellis(window=11), "trellis-1: .*field window: found 11"),
    "trellis of 6 bits": Case(trellis(bits=6), "trellis-1: codec trellis, field bits: found 6"),
    "unknown codec field": Case(codec(surprise=1), "found fields .*surprise"),
    "codec a number": Case(
        field("vq.codecs", lambda records: {**records, "additive-2": 5}), "id additive-2: found 5"
    ),
}
LAYERS = {
    "unknown codec id": Case(layer(0, "x-1"), "layer blocks.0.q, codec id: found 'x-1'"),
    "codec id no string": Case(layer(0, 3), "layer blocks.0.q, .*codec id: found 3"),
    "another codec's id": Case(layer(0, "int8-1"), r"blocks.0.q: found U8 .*expected I8 \[16, 64"),
    "wrong shape": Case(layer(1, [16, 128]), r"found U8 \[16, 8, 3\] .*expected U8 \[16, 16, 3\]"),
    "width no multiple of 8": Case(layer(1, [16, 60]), r"shape: found \[16, 60\]"),
    "shape of one size": Case(layer(1, [16]), r"blocks.0.q, shape: found \[16\]"),
    "size zero": Case(layer(1, [16, 0]), r"shape: found \[16, 0\]"),
    "absurd layer": Case(layer(1, [2**31, 2**31]), r"expected U8 \[2147483648, 268435456, 3\]"),
    "shape no list": Case(layer(1, "large"), "shape: found 'large'"),
    "layer of integers": Case(layer(2, "U8"), "dtype: found 'U8', expected one of F64"),
    "codebook set missing": Case(layer(3, "x"), "codebook set 'x': found no tensor vq.codebooks.x"),
    "codebook set of another shape": Case(layer(3, "gaussian-M2"), r"set of shape \[3, 256, 8\]"),
    "no codebook set": Case(layer(3, None), "codebook set: found None"),
    "codebook set a number": Case(layer(3, 7), "codebook set: found 7, expected a name or null"),
    "table of another window": Case(
        field("vq.codecs", lambda records: records["trellis-1"].update(window=12)),
        r"found U8 \[1, 1024, 1\] .*expected U8 \[1, 4096, 1\]",
    ),
    "codebook set for a trellis": Case(
        field("vq.layers", lambda layers: layers["blocks.0.v"].__setitem__(3, "gaussian-M3")),
        r"set of shape \[1, 1024, 1\]",
    ),
    "layer record too short": Case(
        field("vq.layers", lambda layers: {**layers, "a": ["additive-2"]}), "layer a, .*expected .c"
    ),
    "layer without tensors": Case(
        field("vq.layers", lambda layers: {**layers, "ghost": layers["blocks.0.q"]}),
        "layer ghost: found no tensor vq.ghost.codes",
    ),
    "codes of another dtype": Case(
        redescribed("vq.blocks.0.q.codes", dtype="I8"), "blocks.0.q: found I8 .*expected U8"
    ),
    "scales missing": Case(
        renamed("vq.blocks.0.q.scales", "vq.blocks.0.x.scales"), "no tensor vq.blocks.0.q.scales"
    ),
    "entries of a set missing": Case(
        renamed("vq.codebooks.own.blocks.0", "vq.x"),
        "layer blocks.0.own, .*found no tensor vq.codebooks.own.blocks.0,",
    ),
    "grid of a set missing": Case(
        renamed("vq.codebooks.own.blocks.0.grid", "vq.x"), "no tensor vq.codebooks.own.*grid"
    ),
    "tensor without prefix": Case(renamed("vq.scale", "stray"), "stray, which has no prefix vq"),
    "codebook set of no layer": Case(
        renamed("vq.scale", "vq.codebooks.stray"), "vq.codebooks.stray, which no field mentions"
    ),
    "layer both coded and dense": Case(
        renamed("vq.scale", "vq.blocks.0.q.weight"), "blocks.0.q.weight: .*both coded and dense"
    ),
}
COMPONENTS = {
    "component field missing": Case(
        text("vq.components", None, full),
        "vq.components: found nothing, expected this field, which every VQ checkpoint with components",
    ),
    "component field a list": Case(text("vq.components", "[]", full), "found a JSON list"),
    "no component": Case(text("vq.components", "{}", full), "vq.components: found no component"),
    "component a number": Case(
        text("vq.components", '{"clip":1}', full), "component clip: found 1, expected an object"
    ),
    "component of an odd name": Case(
        field("vq.components", lambda records: {"a.b": records["clip"]}, full),
        "vq.components: found 'a.b', expected names of a-z",
    ),
    "component about a list": Case(
        component("clip", about=[]), r"component clip, field about: found \[\]"
    ),
    "component about numbers": Case(
        component("clip", about={"type": 6}), "component clip, field about: found .'type': 6."
    ),
    "component plan a list": Case(component("vae", plan=[]), "component vae, field plan: found"),
    "component without a source": Case(
        component("vae", source=None), "component vae, field source: found None"
    ),
    "component source without a name": Case(
        component("vae", source={"prefix": ""}),
        "component vae, field source, field name: found None",
    ),
    "component that is not listed": Case(
        field("vq.components", lambda records: {"clip": records["clip"]}, full),
        "components.vae.decoder.conv.weight: found component 'vae', expected .*vq.components: clip",
    ),
    "component of which nothing is there": Case(
        field("vq.components", lambda records: {**records, "ghost": records["vae"]}, full),
        "component ghost: found no weight of it",
    ),
    "components that the file does not require": Case(
        text("vq.requires", "[]", full),
        "components.clip.*: found component 'clip', expected a name in one of vq.components: none here",
    ),
    "component tensor without a name": Case(
        renamed("vq.components.clip.l.scale", "vq.components.clip.", full),
        r"components.clip.: found component 'clip', expected a name in one of",
    ),
    "codes of a component missing": Case(
        renamed("vq.components.clip.l.q.codes", "vq.components.clip.l.x.codes", full),
        "layer components.clip.l.q: found no tensor vq.components.clip.l.q.codes",
    ),
    "component layer both coded and dense": Case(
        renamed("vq.components.clip.l.scale", "vq.components.clip.l.q.weight", full),
        "components.clip.l.q.weight: .*both coded and dense",
    ),
}
NOT_THERE = {
    "text encoders given to Load VQ Checkpoint": Case(
        encoders, "file: found clip, expected a diffusion model; load it with Load VQ CLIP"
    ),
    "model without text encoders given to Load VQ CLIP": Case(
        whole,
        "component clip: found a diffusion model, expected a file that holds clip",
        lambda path: checkpoint.load_component(path, "clip"),
    ),
}
VALUES = {
    "NaN in a component's scales": Case(
        filled("vq.components.clip.l.q.scales", NAN, dtype=HALF, sound=full),
        "layer components.clip.l.q, tensor vq.components.clip.l.q.scales: found NaN",
        lambda path: checkpoint.load_component(path, "clip"),
    ),
    "Inf in a component's dense tensor": Case(
        filled("vq.components.vae.decoder.conv.weight", INF, dtype=torch.float32, sound=full),
        "tensor vq.components.vae.decoder.conv.weight: found NaN or Inf",
        lambda path: checkpoint.load_component(path, "vae"),
    ),
    "NaN in scales": Case(
        filled("vq.out.scales", 1.0, NAN, dtype=HALF), "layer out, tensor vq.out.scales: found NaN"
    ),
    "Inf in scales": Case(filled("vq.out.scales", -INF, dtype=HALF), "vq.out.scales: found NaN"),
    **{
        f"{what} in a grid": Case(
            filled("vq.codebooks.gaussian-M2.grid", *grid, dtype=torch.float32), message
        )
        for what, grid, message in (
            ("NaN", (NAN, 128.0), "gaussian-M2.grid, step: found nan"),
            ("Inf", (1.0, INF), "gaussian-M2.grid, offset: found inf"),
            ("step 0", (0.0, 128.0), "step: found 0.0"),
            ("offset 0.5", (1.0, 0.5), "offset: found 0.5"),
            ("offset 256", (1.0, 256.0), "offset: found 256.0"),
        )
    },
    "codebooks whose sums are no bytes": Case(
        filled("vq.codebooks.gaussian-M2", 255, dtype=torch.uint8), "found largest entries that sum"
    ),
    "NaN in a float32 tensor": Case(
        filled("vq.out.bias", 0, NAN, dtype=torch.float32), "tensor vq.out.bias: found NaN or Inf"
    ),
    "Inf in a half tensor": Case(
        filled("vq.norm.weight", INF, dtype=HALF), "tensor vq.norm.weight"
    ),
    "Inf in a bfloat16 tensor": Case(
        filled("vq.norm.bias", -INF, dtype=torch.bfloat16), "tensor vq.norm.bias: found NaN or Inf"
    ),
    "NaN in a float8 tensor": Case(
        filled("vq.embedding.weight", NAN, dtype=torch.float8_e4m3fn), "tensor vq.embedding.weight"
    ),
    "NaN in a root tensor": Case(
        filled("vq.root.edm_vpred.sigma_max", NAN, dtype=torch.float32), "vq.root.edm_vpred"
    ),
}
SOURCES = {
    "VQ checkpoint given to quantize": Case(
        whole, "found a VQ checkpoint, expected a dense one; quantizing twice", read_all
    ),
    "source with NaN in a weight": Case(
        dense(x__weight=torch.tensor([[1.0, NAN]] * 8)), "tensor x.weight: found NaN", read_all
    ),
    "source with Inf in a bias": Case(
        dense(x__bias=torch.tensor([1.0, INF]).bfloat16()), "tensor x.bias: found NaN", read_all
    ),
    "source with Inf in a float8 weight": Case(
        dense(x__weight=torch.full((8, 8), INF).to(torch.float8_e5m2)), "tensor x.weight", read_all
    ),
    "scaled fp8 source": Case(
        dense(x__weight_scale=torch.ones(())), "x.weight_scale: found a model that is", read_all
    ),
    "transformer as diffusers names it": Case(
        dense(noise_refiner__0__attention__to_k__weight=torch.zeros(8, 8)),
        "noise_refiner.0.attention.to_k.weight: found a transformer in the layout",
        read_all,
    ),
}
WRITING = {
    "saving NaN in a float64 tensor": Case(
        at("new.safetensors"),
        "tensor vq.a: found NaN or Inf",
        save_dense("a", torch.tensor(NAN, dtype=torch.float64)),
    ),
    "saving Inf in a float8 tensor": Case(
        at("new.safetensors"),
        "tensor vq.a: found NaN or Inf",
        save_dense("a", torch.tensor([0, INF]).to(torch.float8_e5m2)),
    ),
    "saving complex numbers": Case(
        at("new.safetensors"),
        "tensor vq.a, dtype: found torch.complex64",
        save_dense("a", torch.zeros(2, dtype=torch.complex64)),
    ),
    "saving a component of an odd name": Case(
        at("new.safetensors"),
        "components: found 'a.b', expected names of a-z, 0-9 and _; rename it",
        lambda path: checkpoint.save(
            path, tiny_model(), components={"a.b": full_components()["vae"]}
        ),
    ),
    "saving a component of nothing": Case(
        at("new.safetensors"),
        "component clip: found nothing, expected weights; leave it out",
        lambda path: checkpoint.save(
            path, tiny_model(), components={"clip": Component(VQModel({}, {}))}
        ),
    ),
    "saving a key that begins as a component's": Case(
        at("new.safetensors"),
        "tensors: found components.x, expected a name that does not begin with codebooks. or",
        save_dense("components.x", torch.zeros(2)),
    ),
    "saving without the folder": Case(at("none/new.safetensors"), "No such file.*a folder", save),
    "saving over a folder": Case(as_folder, "cannot be written: found Is a directory", save),
    "saving where space is short": Case(
        whole, r"found 1000 bytes free, expected at least \d+; nothing was", save_to_full_disk
    ),
    "disk full while saving": Case(
        whole, "found No space left on device.*was there before", save_where_the_disk_fills_up
    ),
}
HEADERS = {**NO_FILES, **CUT, **JSON, **ENTRIES, **FIELDS, **LAYERS, **COMPONENTS, **NOT_THERE}
CASES = {**HEADERS, **VALUES, **SOURCES, **WRITING}


def complaint(case: Case, folder: Path) -> tuple[Path, str]:
    """The bad file, and the whole message that its user sees."""
    path = case.build(folder)
    with pytest.raises(VQError) as error:
        case.use(path)
    return path, str(error.value)


def build(case: Case, folder: Path) -> Case:
    """The case with its file made, so that what making it takes is not counted."""
    if case.build is pipe and not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    path = case.build(folder)
    return replace(case, build=lambda _: path)
