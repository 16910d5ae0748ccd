"""Decode several coded weights in one launch, as those of a transformer block.

A launch costs the processor some microseconds, whatever its size. ``Batch`` therefore writes once
what every weight would be launched with into a table on the device; later launches of it only name
the table. Every weight comes out as ``triton_decode.decode_additive`` or
``triton_trellis.decode_trellis`` makes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_trellis
from .coded import Additive, Trellis
from .constraints import interprets
from .hadamard import sign_bytes
from .triton_decode import LANES, current, programs, run_length, warps
from .triton_lanes import rotated, unrotated

trellis_rotated, trellis_unrotated = triton_trellis.rotated, triton_trellis.unrotated

FIELDS = tl.constexpr(11)
"""Columns of the table: a weight of ``additive``'s arguments in their order, and its first program."""

_TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


Item = tuple[Additive | Trellis, Tensor]
"""A weight, and the contiguous ``[rows, width]`` that it is written to."""


def kind(item: Item) -> tuple[object, ...]:
    """What the items of a batch have in common: what the kernel is compiled for."""
    weight, out = item
    bits, window = weight.codes.shape[2], _window(weight)
    return weight.codes.device, bits, window, weight.block, weight.scales.dtype, out.dtype


def _window(weight: Additive | Trellis) -> int:
    """L of a trellis, 0 for additive codes."""
    return weight.window if isinstance(weight, Trellis) else 0


def refusal(items: Sequence[Item]) -> str | None:
    """Why these are no batch, or None where they are. Says nothing about the device."""
    if not items:
        return "no weights"
    if any(kind(item) != kind(items[0]) for item in items):
        return "weights differ in device, codec, bits, rotation block or type"
    for n, (weight, out) in enumerate(items):
        given = {"codes": weight.codes, "codebooks": weight.codebooks, "scales": weight.scales}
        for name, tensor in {**given, "out": out}.items():
            if not tensor.is_contiguous():
                return f"{name} of weight {n} are not contiguous"
            if tensor.data_ptr() % 16:
                return f"{name} of weight {n} do not begin at a multiple of 16 bytes"
        rows, _, bits = weight.codes.shape
        window = _window(weight)
        tables = (1, 1 << window, 1) if window else (bits, 256, 8)
        if weight.codebooks.shape != tables or weight.scales.shape != (rows,):
            return f"codebooks or scales of weight {n} do not fit its codes"
        if out.shape != weight.shape:
            return f"weight {n} of {weight.shape} does not fit in {tuple(out.shape)}"
        if not 0 < out.numel() < 1 << 31:
            return f"weight {n} has {out.numel()} weights"
    return None


@triton.jit
def batch(
    table,  # int64 [items, FIELDS]
    items,  # int32 [programs]: the weight that a program works on
    BITS: tl.constexpr,
    L: tl.constexpr,
    RUN: tl.constexpr,
    BYTES: tl.constexpr,
    SCALES: tl.constexpr,
    OUT: tl.constexpr,
    LANES: tl.constexpr,
):
    """``triton_decode.additive``, or with L ``triton_trellis.trellis``, with the arguments of the
    program's row of the table."""
    row = table + tl.load(items + tl.program_id(0)) * FIELDS
    codes = tl.multiple_of(tl.load(row).to(tl.pointer_type(tl.uint8)), 16)
    codebooks = tl.multiple_of(tl.load(row + 1).to(tl.pointer_type(tl.uint8)), 16)
    scales = tl.multiple_of(tl.load(row + 2).to(tl.pointer_type(SCALES)), 16)
    out = tl.multiple_of(tl.load(row + 4).to(tl.pointer_type(OUT)), 16)
    norm = tl.load(row + 5).to(tl.int32).to(tl.float32, bitcast=True)
    offset = tl.load(row + 6).to(tl.int32)
    runs = tl.load(row + 7).to(tl.int32)
    runs_per_row = tl.load(row + 8).to(tl.int32)
    program = tl.program_id(0) - tl.load(row + 10).to(tl.int32)
    signs = tl.multiple_of(tl.load(row + 3).to(tl.pointer_type(tl.uint8)), 16)
    runs_per_period = tl.load(row + 9).to(tl.int32)
    if RUN == 1 and L:
        trellis_unrotated(
            codes, codebooks, scales, out, norm, offset, program, runs, runs_per_row, BITS, L, LANES
        )
    elif RUN == 1:
        unrotated(
            codes, codebooks, scales, out, norm, offset, program, runs, runs_per_row, BITS, LANES
        )
    elif L:
        trellis_rotated(
            codes, codebooks, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, BITS, L, RUN, LANES,
        )  # fmt: skip
    else:
        rotated(
            codes, codebooks, scales, signs, out, norm, offset, program, runs, runs_per_row,
            runs_per_period, BITS, RUN, BYTES, LANES,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Batch:
    """Weights that one launch decodes into their outputs.

    Attributes:
        items: held, because the table has nothing but the addresses of their tensors: these must
            neither be moved nor resized.
        sums_are_bytes: the largest entries of the codebooks of each sum to at most 255. Those of a
            trellis always do.

    Raises:
        ValueError: ``refusal`` gives the reason.
    """

    items: tuple[Item, ...]
    sums_are_bytes: bool = False
    _launch: Callable[[], object] = field(init=False, repr=False)
    _signs: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        why = refusal(self.items)
        if why is not None:
            raise ValueError(f"cannot decode together: {why}")
        object.__setattr__(self, "_launch", self._prepared())

    def launch(self) -> None:
        """Decode on the current stream of the device, which must be the current device."""
        self._launch()

    def _prepared(self) -> Callable[[], object]:
        """Writes the table and compiles the kernel; decodes nothing."""
        first, out = self.items[0]
        device, run = first.codes.device, run_length(first.rotation)
        rows, owners, signs = [], [], []
        for item in self.items:
            signs.append(_signs(item[0]))
            row, count = _row(*item, signs[-1], run, len(owners))
            owners += [len(rows)] * count
            rows.append(row)
        table = torch.tensor(rows, dtype=torch.int64).to(device)
        object.__setattr__(self, "_signs", tuple(signs))
        programs_of = torch.tensor(owners, dtype=torch.int32).to(device)
        grid = (len(owners), 1, 1)
        constants = (
            first.codes.shape[2],
            _window(first),
            run,
            self.sums_are_bytes,
            _TYPES[first.scales.dtype],
            _TYPES[out.dtype],
            LANES,
        )
        arguments = (table, programs_of, *constants)
        options: dict[str, Any] = {"num_warps": warps(device), "num_stages": 1}
        if interprets(device):
            return lambda: batch[grid](*arguments, **options)
        with current(device):
            # Compiled here, so that a launch is spared looking it up.
            launcher = batch.warmup(*arguments, grid=grid, **options)[grid]
        return lambda: launcher(*arguments)


def _signs(weight: Additive | Trellis) -> Tensor:
    """The signs of its rotation; codebooks, which nothing reads as signs, where it has none."""
    if weight.rotation is None:
        return weight.codebooks
    return sign_bytes(weight.rotation.seed, weight.period, weight.codes.device)


def _row(
    weight: Additive | Trellis, out: Tensor, signs: Tensor, run: int, first_program: int
) -> tuple[list[int], int]:
    """A row of the table, and the programs that a weight takes."""
    rows, groups, _ = weight.codes.shape
    runs = rows * groups // run
    row = [
        weight.codes.data_ptr(),
        weight.codebooks.data_ptr(),
        weight.scales.data_ptr(),
        signs.data_ptr(),
        out.data_ptr(),
        int(torch.tensor(weight.norm, dtype=torch.float32).view(torch.int32)),
        weight.offset,
        runs,
        groups // run,
        max(1, weight.period // (8 * run)),
        first_program,
    ]
    return row, programs(runs, run)
