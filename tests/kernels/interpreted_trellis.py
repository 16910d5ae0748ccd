"""The Triton kernel of trellis codes in Triton's interpreter, run by ``test_triton.py``."""

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import Rotation, Trellis, constraints, eager, triton_trellis

from .interpreted import DTYPES, intact, poisoned, same

CPU = torch.device("cpu")


def case(rows, width, bits, window=12, block=0, period=None, offset=128, seed=0):
    """A weight, random but for the shape."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, bits), dtype=torch.uint8, generator=generator)
    table = torch.randint(256, (1, 1 << window, 1), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed + 7) if block else None
    return Trellis(codes, table, 0.0123, offset, scales, rotation, period or width)


@pytest.mark.parametrize("bits", range(2, 6))
@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize(("width", "block"), [(8, 0), (40, 0), (192, 64), (256, 128)])
def test_bit_for_bit_eager(width, block, window, bits):
    dtype = DTYPES[(bits + block // 64) % 3]
    weight = case(3, width, bits, window, block)
    out, whole = poisoned((3, width), dtype)
    assert triton_trellis.decode_trellis(weight, dtype, out) is out
    assert same(out, eager.decode_trellis(weight, dtype))
    assert intact(whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [0, 64, 128])
@pytest.mark.parametrize("offset", [0, 128, 131, 255])
def test_every_type_and_offset(offset, block, dtype):
    weight = case(2, 128, 3, block=block, offset=offset)
    assert same(triton_trellis.decode_trellis(weight, dtype), eager.decode_trellis(weight, dtype))


@pytest.mark.parametrize(("rows", "width", "block"), [(1, 8, 0), (515, 8, 0), (37, 128, 128)])
def test_any_number_of_rows(rows, width, block):
    weight = case(rows, width, 3, block=block, seed=rows)
    found = triton_trellis.decode_trellis(weight, torch.float32)
    assert same(found, eager.decode_trellis(weight, torch.float32))


@pytest.mark.parametrize("block", [64, 128])
def test_signs_repeat_for_every_tap_of_a_convolution(block):
    weight = case(2, 384, 2, block=block, period=128)
    found = triton_trellis.decode_trellis(weight, torch.float32)
    assert same(found, eager.decode_trellis(weight, torch.float32))
    other = eager.decode_trellis(weight._replace(period=384), torch.float32)
    assert not same(found, other)


def test_largest_and_smallest_numbers_fit():
    weight = case(3, 128, 3, block=128)
    for entry in (0, 255):
        weight.codebooks.fill_(entry)
        found = triton_trellis.decode_trellis(weight, torch.float32)
        assert same(found, eager.decode_trellis(weight, torch.float32))


def byte_offset(weight, offset):
    """The weight with a table whose entries less ``offset`` are signed bytes."""
    table = weight.codebooks.int().clamp(max(0, offset - 128), min(255, offset + 127))
    return weight.codes, table.to(torch.uint8), offset


@pytest.mark.parametrize("bits", range(2, 6))
@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (3, 5), (2, 4), (5, 129)])
def test_bytes(rows, groups, window, bits):
    numbers = byte_offset(case(rows, 8 * groups, bits, window, seed=bits), 128)
    out, whole = poisoned((rows, 8 * groups), torch.int8)
    assert triton_trellis.decode_trellis_int8(*numbers, out=out) is out
    assert torch.equal(out, eager.decode_trellis_int8(*numbers))
    assert intact(whole)


@pytest.mark.parametrize("offset", [80, 127, 150, 178])
def test_bytes_of_any_offset(offset):
    numbers = byte_offset(case(2, 48, 2, seed=offset), offset)
    found = triton_trellis.decode_trellis_int8(*numbers)
    assert torch.equal(found, eager.decode_trellis_int8(*numbers))


def test_dispatch_chooses_the_kernel_of_bytes(monkeypatch):
    assert kernels.explain("decode_trellis_int8", CPU) == "decode_trellis_int8 on cpu: triton"
    weight = case(3, 64, 3, block=64)
    numbers = eager.decode_trellis_int8(weight.codes, weight.codebooks, weight.offset)
    assert torch.equal(kernels.decode_bytes(weight), numbers)
    monkeypatch.setattr(triton_trellis, "decode_trellis_int8", lambda *_, **__: "triton's")
    assert kernels.decode_bytes(weight) == "triton's"


def test_dispatch_chooses_this_kernel(monkeypatch):
    assert kernels.explain("decode_trellis", CPU) == "decode_trellis on cpu: triton"
    weight = case(3, 64, 3, block=64)
    expected = kernels.decode(weight, torch.float32)  # tried before, against eager
    assert same(expected, eager.decode_trellis(weight, torch.float32))
    monkeypatch.setattr(triton_trellis, "decode_trellis", lambda *_, **__: "triton's")
    assert kernels.decode(weight, torch.float32) == "triton's"


@pytest.mark.parametrize(
    ("bits", "window", "block", "says"),
    [(1, 12, 128, "books 2"), (3, 11, 128, "window 10"), (3, 12, 32, "block 0")],
)
def test_others_are_refused(bits, window, block, says):
    case = constraints.Case(CPU, torch.float16, bits, block, window=window)
    assert f"not triton: needs {says}" in kernels.explain("decode_trellis", CPU, case)
