"""One layer, in each of the ways that are compared: what a call does, ready to be timed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from comfy_vq.kernels.activations import rotate_activations
from torch import Tensor

from comfy_vq import compute, kernels
from comfy_vq.codecs import VQWeight
from comfy_vq.kernels import dispatch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Missing:
    """Why something could not be compared here."""

    reason: str


def exact_conv2d(input: Tensor, weight: VQWeight, bias: Tensor | None, padding: int = 0) -> Tensor:
    """Decode, then convolve: what a VQ layer does in exact mode."""
    return compute.convolution(partial(F.conv2d, padding=padding), input, weight, bias)


def int8_missing() -> Missing | None:
    """Why int8 compute cannot be measured here, or None."""
    try:
        importlib.import_module("comfy_kitchen").int8_linear  # noqa: B018
    except Exception as error:  # noqa: BLE001 - its backends may raise anything as they load
        return Missing(f"comfy_kitchen.int8_linear: {type(error).__name__}: {error}")
    return None


def int8_linear(input: Tensor, weight: VQWeight, bias: Tensor | None) -> Tensor:
    """Decode to int8, rotate the input and quantize its rows, multiply in int8."""
    import comfy_kitchen

    shared, rotation = weight.codebooks, weight.spec.rotation
    assert shared is not None
    rows = kernels.decode_bytes(weight.coded())
    step = shared.step
    if rotation is not None:
        input, step = rotate_activations(input, rotation), step * rotation.block**0.5
    scales = weight.tensors["scales"].float() * step
    return comfy_kitchen.int8_linear(input, rows, scales, bias, out_dtype=input.dtype)


@contextmanager
def only(operation: str, kernel: dispatch.Kernel) -> Iterator[None]:
    """Let one implementation of an operation run and no other."""
    listed, chosen = dispatch._KERNELS[operation], dict(dispatch._chosen)
    dispatch._KERNELS[operation] = [kernel]
    dispatch._chosen.clear()
    try:
        yield
    finally:
        dispatch._KERNELS[operation] = listed
        dispatch._chosen.clear()
        dispatch._chosen.update(chosen)


def implementations(
    operation: str, case: dispatch.Case
) -> list[tuple[dispatch.Kernel, Missing | None]]:
    """All of an operation, best first, with the reason for those that do not run in a case."""
    found = []
    for kernel in dispatch._KERNELS.get(operation, []):
        refused = kernel.refusal(case)
        found.append((kernel, None if refused is None else Missing(refused)))
    return found


def codec_of(operation: str) -> tuple[str, bool]:
    """Whose codes an operation decodes, and whether to bytes in the basis that they were coded in."""
    if operation == "decode_int8":
        return "int8", False
    codec = operation.removeprefix("decode_").removesuffix("_int8")
    return codec, operation.endswith("_int8")


def decode_call(operation: str, weight: VQWeight, dtype: torch.dtype) -> tuple[Call, int]:
    """Decoding of ``weight`` into a buffer that is there already, and the bytes that it moves.

    Bytes are those read of codes and scales and those written.
    """
    codes, scales, rows = weight.tensors["codes"], weight.tensors["scales"], weight.shape[0]
    _, in_bytes = codec_of(operation)
    dtype = torch.int8 if in_bytes else dtype
    with torch.inference_mode(False):  # as the buffer that layers share is made
        out = torch.empty((rows, weight.numel // rows), dtype=dtype, device=codes.device)
    moved = codes.nbytes + scales.nbytes + out.nbytes
    coded = weight.coded()
    if in_bytes:
        return lambda: kernels.decode_bytes(coded, out), moved
    return lambda: kernels.decode(coded, dtype, out=out), moved
