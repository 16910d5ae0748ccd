"""Decoding on the card, bit for bit what eager PyTorch gives on the CPU."""

import itertools

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import Additive, Rotation, Trellis, eager

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
BLOCKS = [0, 64, 128]


def bits(x):
    return x.cpu().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[x.dtype.itemsize])


def same(found, expected):
    return found.dtype == expected.dtype and torch.equal(bits(found), bits(expected))


def case(rows, width, books, block, dtype, period=None, scales=None, seed=0):
    """A weight on the CPU, random but for the shape, and the type to decode to."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, books), dtype=torch.uint8, generator=generator)
    tables = torch.randint(
        255 // books + 1, (books, 256, 8), dtype=torch.uint8, generator=generator
    )
    if scales is None:
        scales = torch.randn(rows, generator=generator)
    rotation = Rotation(block, seed + 7) if block else None
    grid = tables, 0.0123, 128
    return Additive(codes, *grid, scales.half(), rotation, period or width), dtype


def on(device, arguments):
    weight, dtype = arguments
    moved = (a.to(device) if isinstance(a, torch.Tensor) else a for a in weight)
    return type(weight)(*moved), dtype


def test_a_graphics_card_decodes_with_triton(device):
    """What follows would hold for eager PyTorch too, and say nothing of the kernels."""
    if device.type == "cpu":
        pytest.skip("the CPU stands in for a graphics card")
    for operation in kernels.OPERATIONS:
        assert ": triton" in kernels.explain(operation, device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("books", range(1, 7))
def test_additive(device, books, block, dtype):
    arguments = case(37, 384, books, block, dtype)
    found = kernels.decode(*on(device, arguments))
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize("bits", range(2, 6))
@pytest.mark.parametrize(("rows", "width"), [(37, 384), (640, 1280)])
def test_trellis(device, rows, width, bits, window, block, dtype):
    weight, _ = case(rows, width, bits, block, dtype)
    table = torch.arange(1 << window).mul_(101).to(torch.uint8).view(1, -1, 1)
    arguments = Trellis(*weight)._replace(codebooks=table), dtype
    found = kernels.decode(*on(device, arguments))
    assert same(found, eager.decode_trellis(*arguments))


@pytest.mark.parametrize(
    ("rows", "width", "block"),
    [(1, 8, 0), (1, 64, 64), (129, 40, 0), (3, 1000, 0), (1283, 640, 128), (320, 2048, 128)],
)
def test_any_number_of_rows_and_groups(device, rows, width, block):
    arguments = case(rows, width, 3, block, torch.float16)
    found = kernels.decode(*on(device, arguments))
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("block", [64, 128])
def test_signs_repeat_for_every_tap_of_a_convolution(device, block):
    arguments = case(24, 9 * 128, 3, block, torch.float16, period=128)
    found = kernels.decode(*on(device, arguments))
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("books", range(1, 7))
def test_additive_in_signed_bytes(device, books):
    weight, _ = case(37, 384, books, 0, torch.float16)
    found = kernels.decode_bytes(on(device, (weight, None))[0])
    assert same(found, eager.decode_additive_int8(weight.codes, weight.codebooks, weight.offset))


@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize("bits", range(2, 6))
def test_trellis_in_signed_bytes(device, bits, window):
    weight, _ = case(37, 384, bits, 0, torch.float16)
    table = torch.arange(1 << window).mul_(101).to(torch.uint8).view(1, -1, 1)
    weight = Trellis(*weight)._replace(codebooks=table)
    found = kernels.decode_bytes(on(device, (weight, None))[0])
    assert same(found, eager.decode_trellis_int8(weight.codes, table, weight.offset))


def test_layers_of_every_kind_are_decoded_in_batches(device):
    if device.type == "cpu":
        pytest.skip("the CPU stands in for a graphics card, and has no batches")
    items, expected = [], []
    for n, (bits, block) in enumerate(itertools.product((2, 3, 5), BLOCKS)):
        weight, dtype = case(37 + n, 384, bits, block, torch.float16, seed=n)
        table = torch.arange(4096).mul_(101).to(torch.uint8).view(1, -1, 1)
        for kind in (weight, Trellis(*weight)._replace(codebooks=table)):
            out = torch.full((37 + n, 384), torch.nan, dtype=dtype, device=device)
            items.append((on(device, (kind, None))[0], out))
            expected.append(kernels.decode(kind, dtype))
    launches = kernels.batches([*items, *items])
    assert len(launches) == len(items)
    for launch in launches:
        launch()
    for (_, out), right in zip(items, expected, strict=True):
        assert same(out, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (37, 320), (5, 1025)])
def test_int8_rows(device, rows, width, dtype):
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    found = kernels.decode(kernels.Int8(codes.to(device), scales.to(device)), dtype)
    assert same(found, eager.decode_int8(codes, scales, dtype))


@pytest.mark.parametrize("block", BLOCKS)
def test_a_buffer_is_overwritten_and_nothing_beside_it(device, block):
    arguments = case(5, 256, 3, block, torch.float16)
    whole = torch.full((7, 256), torch.nan, dtype=torch.float16, device=device)
    found = kernels.decode(*on(device, arguments), out=whole[1:6])
    assert found.data_ptr() == whole[1:6].data_ptr()
    assert same(whole[1:6], eager.decode_additive(*arguments))
    assert whole[0].isnan().all() and whole[6].isnan().all()


SCALES = {"zero": 0.0, "denormal": 6e-8, "largest": 65504.0}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_extreme_scales_make_no_nan(device, scale, block, dtype):
    arguments = case(4, 256, 3, block, dtype, scales=torch.full((4,), scale))
    found = kernels.decode(*on(device, arguments))
    assert not found.isnan().any()
    assert same(found, eager.decode_additive(*arguments))
