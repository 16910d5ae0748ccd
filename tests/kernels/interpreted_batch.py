"""Batches in Triton's interpreter: ``test_triton.py`` runs this in a process of its own."""

import sys

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import (
    Additive,
    Rotation,
    Trellis,
    constraints,
    eager,
    triton_batch,
    triton_ready,
)

Batch = triton_batch.Batch
CPU = torch.device("cpu")
UNEQUAL = [(3, 256, 128), (35, 128, 128), (1, 512, 256), (2, 128, 128)]
"""Rows, width and period of layers that need several programs, one, and half of one."""


def item(rows, width, period, books=3, block=128, dtype=torch.float16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, books), dtype=torch.uint8, generator=generator)
    tables = torch.randint(256, (books, 256, 8), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed) if block else None
    out = torch.empty((rows, width), dtype=dtype)
    grid = tables // books, 0.01 + seed, 120 + seed
    return Additive(codes, *grid, scales, rotation, period), out


def path(rows, width, period, bits=3, block=128, dtype=torch.float16, seed=0, window=12):
    """An item of trellis codes."""
    weight, out = item(rows, width, period, bits, block, dtype, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    table = torch.randint(256, (1, 1 << window, 1), dtype=torch.uint8, generator=generator)
    return Trellis(*weight)._replace(codebooks=table), out


def alone(item):
    weight, out = item
    decode = eager.decode_trellis if isinstance(weight, Trellis) else eager.decode_additive
    return decode(weight, out.dtype)


def changed(item, **fields):
    weight, out = item
    out = fields.pop("out", out)
    return weight._replace(**fields), out


@pytest.mark.parametrize("byte_sums", [False, True])
@pytest.mark.parametrize(
    ("block", "books", "dtype"),
    [(0, 3, torch.float16), (64, 2, torch.bfloat16), (128, 6, torch.float32)],
)
def test_unequal_layers_come_out_as_alone(block, books, dtype, byte_sums):
    items = tuple(
        item(*shape, books, block, dtype, seed=seed) for seed, shape in enumerate(UNEQUAL)
    )
    batch = Batch(items, byte_sums)
    for _ in range(2):
        for _, out in items:
            out.fill_(torch.nan)
        batch.launch()
        for x in items:
            assert torch.equal(x[1], alone(x))


@pytest.mark.parametrize(
    ("block", "bits", "window", "dtype"),
    [
        (0, 3, 12, torch.float16),
        (64, 2, 10, torch.bfloat16),
        (128, 5, 12, torch.float32),
        (128, 4, 10, torch.float16),
    ],
)
def test_unequal_layers_of_a_trellis_come_out_as_alone(block, bits, window, dtype):
    items = tuple(
        path(*shape, bits, block, dtype, seed, window) for seed, shape in enumerate(UNEQUAL)
    )
    batch = Batch(items, True)
    for _ in range(2):
        for _, out in items:
            out.fill_(torch.nan)
        batch.launch()
        for x in items:
            assert torch.equal(x[1], alone(x))


def test_each_codec_and_width_has_a_launch_of_its_own(monkeypatch):
    """On a card; here the interpreter stands in for it."""
    launched = []

    def recorded(items, byte_sums):
        launched.append(len(items))
        return Batch(tuple(items), byte_sums).launch

    monkeypatch.setattr(triton_ready, "batch", recorded)
    module = sys.modules["comfy_vq.kernels.batches"]
    monkeypatch.setattr(module, "_on_card", lambda device: True)
    items = [item(2, 128, 128), path(2, 128, 128), path(3, 128, 128), path(2, 128, 128, window=10)]
    items += [path(2, 128, 128, bits=2), item(4, 128, 128)]
    for launch in kernels.batches(items):
        launch()
    assert sorted(launched) == [1, 1, 2, 2]
    for x in items:
        assert torch.equal(x[1], alone(x))


def test_building_decodes_nothing_and_codes_are_read_at_launch():
    only = item(2, 128, 128)
    weight, out = only
    out.fill_(torch.nan)
    batch = Batch((only,))
    assert out.isnan().all()
    weight.codes.fill_(7)
    batch.launch()
    assert torch.equal(out, alone(only))


def shifted(x):
    """A copy of x that does not begin at a multiple of 16 bytes."""
    memory = torch.empty(x.numel() + 16 // x.element_size() + 1, dtype=x.dtype)
    first = next(n for n in range(1, 3) if memory[n:].data_ptr() % 16)
    return memory[first : first + x.numel()].view(x.shape).copy_(x)


@pytest.mark.parametrize("name", ["codes", "codebooks", "scales", "out"])
def test_tensors_that_are_not_aligned_are_refused(name):
    good = item(4, 128, 128)
    right = good[1] if name == "out" else getattr(good[0], name)
    bad = changed(good, **{name: shifted(right)})
    assert triton_batch.refusal([good]) is None
    why = f"{name} of weight 1 do not begin at a multiple of 16 bytes"
    assert triton_batch.refusal([good, bad]) == why
    with pytest.raises(ValueError, match=why):
        Batch((good, bad))


@pytest.mark.parametrize("change", [{"books": 2}, {"block": 64}, {"dtype": torch.float32}])
def test_different_kinds_are_refused(change):
    why = triton_batch.refusal([item(2, 128, 128), item(2, 128, 128, **change)])
    assert why == "weights differ in device, codec, bits, rotation block or type"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"out": torch.empty(2, 64, dtype=torch.float16)}, r"does not fit in \(2, 64\)"),
        ({"out": torch.empty(128, 2, dtype=torch.float16).t()}, "out of weight 0 are not contig"),
        ({"scales": torch.ones(3).half()}, "codebooks or scales of weight 0 do not fit"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, why):
    with pytest.raises(ValueError, match=why):
        Batch((changed(item(2, 128, 128), **change),))


def test_what_dispatch_launches():
    x = item(2, 128, 128)
    triton_ready.batch([x], True)()
    assert torch.equal(x[1], alone(x))


def test_no_weights_are_no_batch():
    assert triton_batch.refusal([]) == "no weights"


def test_a_trellis_and_additive_codes_are_no_batch():
    why = triton_batch.refusal([item(2, 128, 128), path(2, 128, 128)])
    assert why == "weights differ in device, codec, bits, rotation block or type"


@pytest.mark.parametrize("window", [0, 10, 12])
@pytest.mark.parametrize("byte_sums", [False, True])
@pytest.mark.parametrize("block", [0, 64, 128])
def test_a_trial_decides_about_batches(monkeypatch, block, byte_sums, window):
    case = constraints.Case(CPU, torch.float16, 2, block, window=window)
    monkeypatch.setattr(triton_ready, "_batches", {})
    assert triton_ready.batch_refusal(case, byte_sums) is None
    monkeypatch.setattr(triton_ready, "_batches", {})
    monkeypatch.setattr(triton_batch.Batch, "launch", lambda _: None)
    assert "wrong weights" in triton_ready.batch_refusal(case, byte_sums)
