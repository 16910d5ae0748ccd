"""Calibrations on disk.

One safetensors file. ``vq.moments.<n>`` is float32 ``[blocks, width, width]``, see ``Moments``. The
header names the layers: ``vq.calibration`` is the version, ``vq.calibration.pictures`` a whole number,
``vq.calibration.layers`` an object of layer -> [shape of its weight, n or null], and
``vq.calibration.counts`` the list of the counts of all n.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from ..checkpoint.header import FileHeader, read_header
from ..checkpoint.refusal import refuse
from ..checkpoint.serialize import Stored, compact_json, write_file
from ..checkpoint.strict_json import parse_json, parse_object
from ..checkpoint.values import check_finite
from .moments import Calibration, Moments, shared

VERSION = 1
FIELD = "vq.calibration"
"""What marks a file as a calibration."""
_PICTURES, _LAYERS, _COUNTS = f"{FIELD}.pictures", f"{FIELD}.layers", f"{FIELD}.counts"
_ADVICE = "copy or download the file again, or calibrate again"
_MAX_HEADER = 8 << 20
_MAX = 2**53


def save(
    path: str | os.PathLike[str],
    calibration: Calibration,
    *,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write a calibration, atomically; the same one gives the same bytes.

    Args:
        extra: more strings for the header, such as ComfyUI's ``prompt`` and ``workflow``.

    Raises:
        VQError: values are not finite, or the file cannot be written; an earlier one stays.
    """
    calibration.refuse_not_finite()
    groups = shared(calibration.moments)
    slots = {name: slot for slot, (_, names) in enumerate(groups) for name in names}
    layers = {
        name: [list(shape), slots.get(name)] for name, shape in sorted(calibration.shapes.items())
    }
    metadata = {
        **(extra or {}),
        "format": "pt",
        FIELD: str(VERSION),
        _PICTURES: str(calibration.pictures),
        _LAYERS: compact_json(layers),
        _COUNTS: compact_json([found.count for found, _ in groups]),
    }
    tensors = {_name(n): Stored.of(found.sums) for n, (found, _) in enumerate(groups)}
    write_file(path, tensors, metadata)


def load(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration; its sums are maps of the file, read when they are first used.

    Raises:
        VQError: no calibration, a damaged one, or one that needs a newer comfy-vq.
    """
    header = read_header(path, _MAX_HEADER)
    shapes, slots, counts = _fields(header)
    _check_tensors(header, shapes, slots, len(counts))
    pictures = _whole(header.path, _PICTURES, header.metadata.get(_PICTURES))
    try:
        with safe_open(path, "pt") as file:
            found = [Moments(file.get_tensor(_name(n)), c) for n, c in enumerate(counts)]
    except (OSError, SafetensorError) as error:
        refuse(path, "cannot be read", str(error), "a readable safetensors file", _ADVICE)
    for n, moments in enumerate(found):
        check_finite(header.path, f"tensor {_name(n)}", moments.sums, _ADVICE)
        if bool((moments.sums.diagonal(dim1=1, dim2=2) < 0).any()):
            _fail(header.path, f"tensor {_name(n)}", "a negative sum of squares", "sums of squares")
    return Calibration(shapes, {name: found[slot] for name, slot in slots.items()}, pictures)


def noted(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """Everything that the header of a calibration says, ``extra`` of ``save`` included.

    Raises:
        VQError: the file cannot be read.
    """
    return read_header(path, _MAX_HEADER).metadata


def is_calibration(path: str | os.PathLike[str]) -> bool:
    """Whether a file calls itself a calibration; reads only its header, and does not check it."""
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return False
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                return False
            return FIELD in json.loads(file.read(length)).get("__metadata__", {})
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


_Fields = tuple[dict[str, tuple[int, ...]], dict[str, int], list[int]]


def _fields(header: FileHeader) -> _Fields:
    """Shapes and slots by layer, and the counts of the slots."""
    path, metadata = header.path, header.metadata
    if FIELD not in metadata:
        refuse(
            path,
            "file",
            "another kind of safetensors file",
            "a calibration",
            "make one with VQ Calibrate or `python -m comfy_vq calibrate`",
        )
    if metadata[FIELD] != str(VERSION):
        refuse(path, FIELD, repr(metadata[FIELD]), f"'{VERSION}'", "update comfy-vq")
    counts = parse_json(path, _COUNTS, metadata.get(_COUNTS, ""))
    if not isinstance(counts, list) or not all(_is_whole(c, 1) for c in counts):
        _fail(path, _COUNTS, str(counts), "a list of whole numbers from 1")
    shapes, slots = {}, {}
    for name, value in parse_object(path, _LAYERS, metadata.get(_LAYERS, "")).items():
        shapes[name], slot = _layer(path, name, value, len(counts))
        if slot is not None:
            slots[name] = slot
    return shapes, slots, counts


def _layer(path: Path, name: str, value: Any, count: int) -> tuple[tuple[int, ...], int | None]:
    where = f"{_LAYERS}, layer {name}"
    if not isinstance(value, list) or len(value) != 2:
        _fail(path, where, str(value), "a shape and a number or null")
    shape, slot = value
    if not isinstance(shape, list) or not 2 <= len(shape) <= 5:
        _fail(path, f"{where}, shape", str(shape), "2 to 5 sizes")
    if not all(_is_whole(size, 1) for size in shape):
        _fail(path, f"{where}, shape", str(shape), "whole numbers from 1")
    if slot is not None and not (_is_whole(slot, 0) and slot < count):
        _fail(path, f"{where}, number", str(slot), f"null, or a whole number below {count}")
    return tuple(shape), slot


def _check_tensors(
    header: FileHeader, shapes: dict[str, tuple[int, ...]], slots: dict[str, int], count: int
) -> None:
    path, expected = header.path, {_name(n) for n in range(count)}
    if odd := sorted(expected ^ header.entries.keys()):
        found = "no such tensor" if odd[0] in expected else "a tensor that belongs to nothing"
        _fail(path, f"tensor {odd[0]}", found, f"{count} tensors, as {_COUNTS} says")
    for n, (name, entry) in enumerate(sorted(header.entries.items())):
        if n not in slots.values():
            _fail(path, f"tensor {_name(n)}", "moments of no layer", "those of at least one")
        square = len(entry.shape) == 3 and entry.shape[1] == entry.shape[2] and entry.numel > 0
        if entry.dtype != torch.float32 or not square:
            found = f"{entry.dtype} {list(entry.shape)}"
            _fail(path, f"tensor {name}", found, "float32 [blocks, width, width]")
    for name, slot in slots.items():
        entry = header.entries[_name(slot)]
        if not Moments(torch.empty(entry.shape, device="meta"), 1).fits(shapes[name]):
            found = f"{list(entry.shape)} for a weight of shape {list(shapes[name])}"
            _fail(path, f"layer {name}, moments", found, "blocks that make up its columns")


def _whole(path: Path, where: str, text: str | None) -> int:
    if text is None or not re.fullmatch("[0-9]{1,15}", text):
        _fail(path, where, repr(text), "a whole number")
    return int(text)


def _is_whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= _MAX


def _name(slot: int) -> str:
    return f"vq.moments.{slot}"


def _fail(path: Path, where: str, found: str, expected: str) -> NoReturn:
    refuse(path, where, found, expected, _ADVICE)
