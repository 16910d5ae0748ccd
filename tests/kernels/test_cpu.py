"""Decoding on a CPU is bit for bit what eager decoding is."""

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.codecs.codebooks import shipped_set, shipped_table
from comfy_vq.kernels import Additive, Rotation, Trellis, cpu, eager, scratch

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def case(rows, width, books, block=0, period=None, seed=0):
    """Random codes and scales, a shipped set."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, books), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed + 7) if block else None
    shared = shipped_set(books)
    grid = shared.codebooks, shared.step, shared.offset
    return Additive(codes, *grid, scales, rotation, period or width)


def trellis(rows, width, bits, block=0, period=None, window=12):
    """Random codes and scales, a shipped table."""
    codes, *_, scales, rotation, period = case(rows, width, bits, block, period)
    shared = shipped_table(bits, window)
    grid = shared.codebooks, shared.step, shared.offset
    return Trellis(codes, *grid, scales, rotation, period)


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(cpu, "_SLICE", 3 * 128)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("books", range(1, 7))
@pytest.mark.parametrize(("width", "block"), [(40, 0), (192, 64), (128, 128), (256, 2)])
def test_same_bits_as_eager(width, block, books, dtype):
    weight = case(5, width, books, block)
    found = cpu.decode_additive(weight, dtype)
    assert torch.equal(found, eager.decode_additive(weight, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize("bits", range(2, 6))
@pytest.mark.parametrize(("width", "block"), [(8, 0), (40, 0), (192, 64), (128, 128), (256, 2)])
def test_trellis_codes_give_the_same_bits_as_eager(width, block, bits, window, dtype):
    weight = trellis(5, width, bits, block, window=window)
    found = cpu.decode_trellis(weight, dtype)
    assert torch.equal(found, eager.decode_trellis(weight, dtype))


@pytest.mark.parametrize("inference", [False, True])
def test_slices_of_a_trellis_change_nothing(small_slices, two_threads, inference):
    weight = trellis(33, 256, 3, 128, period=128)
    with torch.inference_mode(inference):
        found = cpu.decode_trellis(weight, torch.bfloat16)
    assert torch.equal(found, eager.decode_trellis(weight, torch.bfloat16))


@pytest.mark.parametrize("offset", [0, 127, 131])
@pytest.mark.parametrize("block", [0, 64])
def test_tables_whose_entries_are_no_bytes(block, offset):
    weight = trellis(3, 64, 3, block)._replace(offset=offset)
    found = cpu.decode_trellis(weight, torch.float32)
    assert torch.equal(found, eager.decode_trellis(weight, torch.float32))


@pytest.mark.parametrize("by_bytes", [False, True])
def test_a_trellis_by_either_product(monkeypatch, by_bytes):
    monkeypatch.setattr(cpu, "multiplies_bytes", lambda: by_bytes)
    weight = trellis(3, 128, 3, 128)
    found = cpu.decode_trellis(weight, torch.float16)
    assert torch.equal(found, eager.decode_trellis(weight, torch.float16))


@pytest.mark.parametrize("inference", [False, True])
def test_slices_and_threads_change_nothing(small_slices, two_threads, inference):
    weight = case(33, 256, 3, 128, period=128)
    with torch.inference_mode(inference):
        out = scratch.scratch(33, 256, torch.bfloat16, torch.device("cpu"))
        found = cpu.decode_additive(weight, torch.bfloat16, out)
    assert torch.equal(found, eager.decode_additive(weight, torch.bfloat16))


def test_a_slice_of_another_shape_finds_no_leftovers(small_slices):
    for rows, width, books, block in [(2, 128, 4, 64), (9, 256, 2, 128), (3, 40, 1, 0)] * 2:
        weight = case(rows, width, books, block)
        found = cpu.decode_additive(weight, torch.float32)
        assert torch.equal(found, eager.decode_additive(weight, torch.float32))


@pytest.mark.parametrize("by_bytes", [False, True])
@pytest.mark.parametrize("block", [0, 128])
def test_by_either_product(monkeypatch, block, by_bytes):
    monkeypatch.setattr(cpu, "multiplies_bytes", lambda: by_bytes)
    weight = case(3, 128, 3, block)
    found = cpu.decode_additive(weight, torch.float16)
    assert torch.equal(found, eager.decode_additive(weight, torch.float16))


@pytest.mark.parametrize("offset", [0, 127, 128, 131])
def test_sets_whose_sums_are_no_bytes(offset):
    weight = case(3, 64, 3, 64)
    wild = torch.randint(256, weight.codebooks.shape, dtype=torch.uint8)
    for tables in (wild, weight.codebooks):
        other = weight._replace(codebooks=tables, offset=offset)
        found = cpu.decode_additive(other, torch.float32)
        assert torch.equal(found, eager.decode_additive(other, torch.float32))


@pytest.mark.parametrize(
    ("decode", "weight"),
    [
        (cpu.decode_additive, case(5, 128, 2, 64)),
        (eager.decode_additive, case(5, 128, 2, 64)),
        (cpu.decode_trellis, trellis(5, 128, 2, 64)),
        (eager.decode_trellis, trellis(5, 128, 2, 64)),
    ],
)
def test_a_given_output_is_overwritten_whole(decode, weight):
    out = torch.full((5, 128), torch.nan)
    assert decode(weight, torch.float32, out) is out
    assert torch.equal(out, kernels.decode(weight, torch.float32))


@pytest.mark.parametrize("decode", [cpu.decode_additive_int8, eager.decode_additive_int8])
@pytest.mark.parametrize("books", [1, 3, 6])
def test_signed_bytes_are_the_sums_less_the_offset(decode, books):
    codes, codebooks, _, offset, *_ = case(5, 40, books)
    expected = sum(codebooks[m].int()[codes[..., m].long()] for m in range(books)) - offset
    found = decode(codes, codebooks, offset)
    assert found.dtype == torch.int8
    assert torch.equal(found.int(), expected.flatten(1))
    out = torch.zeros_like(found)
    assert decode(codes, codebooks, offset, out) is out
    assert torch.equal(out, found)


@pytest.mark.parametrize("decode", [cpu.decode_trellis_int8, eager.decode_trellis_int8])
@pytest.mark.parametrize("bits", [2, 3, 5])
def test_signed_bytes_of_a_trellis_are_the_entries_less_the_offset(decode, bits, small_slices):
    weight = trellis(7, 40, bits)
    entries = weight._replace(scales=torch.ones(7), step=1.0)
    expected = eager.decode_trellis(entries, torch.float32)
    numbers = weight.codes, weight.codebooks, weight.offset
    found = decode(*numbers)
    assert found.dtype == torch.int8
    assert torch.equal(found.float(), expected)
    out = torch.zeros_like(found)
    assert decode(*numbers, out) is out
    assert torch.equal(out, found)


@pytest.mark.parametrize("weight", [case(6, 64, 3, 64), trellis(6, 64, 3, 64)])
def test_codes_at_any_address_and_in_any_order(weight):
    codes, codebooks = weight.codes, weight.codebooks
    decode = "decode_trellis" if isinstance(weight, Trellis) else "decode_additive"
    expected = getattr(eager, decode)(weight, torch.float32)
    odd = torch.cat((torch.zeros(1, dtype=torch.uint8), codebooks.flatten()))[1:]
    strided = torch.stack((codes, codes), 1)[:, 0]
    assert odd.data_ptr() % 8 and not strided.is_contiguous()
    moved = weight._replace(codes=strided, codebooks=odd.view(codebooks.shape))
    found = getattr(cpu, decode)(moved, torch.float32)
    assert torch.equal(found, expected)
