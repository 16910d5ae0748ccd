"""Decoding as operators of torch: what torch.compile puts into its graph in place of our Python.

To a compiler they are opaque. Which kernel runs is decided when the compiled code does, and each
result is memory of its own, never the scratch buffer, which the next decode overwrites.

Code that is not compiled goes past them: a call through torch takes longer than ours. They are
registered with the low-level interface, whose calls take half as long as those of
``torch.library.custom_op``, which checks for aliases and prepares gradients that codes never have.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import dispatch
from .coded import Additive, Coded, Int8, Trellis
from .hadamard import Rotation

NAMESPACE = "comfy_vq"


def decode(weight: Coded, dtype: torch.dtype, out: Tensor | None = None) -> Tensor:
    """``dispatch.decode``, in code that is being compiled as one node of the graph."""
    if not torch.compiler.is_compiling():
        return dispatch.decode(weight, dtype, out)
    operators = torch.ops.comfy_vq
    if isinstance(weight, Int8):
        made = operators.decode_int8(*weight, dtype)
    else:
        codes, codebooks, step, offset, scales, rotation, period = weight
        block, seed = (0, 0) if rotation is None else (rotation.block, signed(rotation.seed))
        grid = codes, codebooks, scales, step, offset, block, seed, period
        run = operators.decode_trellis if isinstance(weight, Trellis) else operators.decode_additive
        made = run(*grid, dtype)
    return made if out is None else out.copy_(made)


def signed(seed: int) -> int:
    """A seed of 64 bits as the integer that a schema holds, in two's complement."""
    return seed - (1 << 64) if seed >> 63 else seed


def _run_on_grid(
    kind: type[Additive | Trellis],
    codes: Tensor,
    codebooks: Tensor,
    scales: Tensor,
    step: float,
    offset: int,
    block: int,
    seed: int,
    period: int,
    dtype: torch.dtype,
) -> Tensor:
    rotation = Rotation(block, seed % (1 << 64)) if block else None
    return dispatch.decode(kind(codes, codebooks, step, offset, scales, rotation, period), dtype)


def _fake_on_grid(codes: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((codes.shape[0], codes.shape[1] * 8), dtype=rest[-1])


def _run_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return dispatch.decode(Int8(codes, scales), dtype)


def _fake_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return codes.new_empty(codes.shape, dtype=dtype)


def _register(
    library: torch.library.Library,
    schema: str,
    run: Callable[..., Tensor],
    fake: Callable[..., Tensor],
) -> None:
    name = schema.partition("(")[0]
    if hasattr(getattr(torch.ops, NAMESPACE), name):
        return  # by another copy of this package in the process
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=library)


_library = torch.library.Library(NAMESPACE, "FRAGMENT")
for _name, _kind in (("decode_additive", Additive), ("decode_trellis", Trellis)):
    _register(
        _library,
        f"{_name}(Tensor codes, Tensor codebooks, Tensor scales, float step, SymInt offset, "
        "SymInt block, SymInt seed, SymInt period, ScalarType dtype) -> Tensor",
        partial(_run_on_grid, _kind),
        _fake_on_grid,
    )
_register(
    _library,
    "decode_int8(Tensor codes, Tensor scales, ScalarType dtype) -> Tensor",
    _run_int8,
    _fake_int8,
)
