"""The Triton kernels in Triton's interpreter: ``test_triton.py`` runs this in a process of its own.

The interpreter must be asked for before Triton is imported. It is slow: dimensions stay small.
"""

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import Additive, Rotation, constraints, eager, triton_decode, triton_ready

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
CPU = torch.device("cpu")


def bits(x):
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


def same(a, b):
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def case(rows, width, books, block=0, period=None, dtype=torch.float32, seed=0):
    """A weight, random but for the shape, and the type to decode to."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, books), dtype=torch.uint8, generator=generator)
    tables = torch.randint(256, (books, 256, 8), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed + 7) if block else None
    return Additive(codes, tables, 0.0123, 131, scales, rotation, period or width), dtype


def in_float64(weight, dtype):
    """The definition: only the factor of a row and the last two roundings are float32's."""
    codes, tables, step, offset, scales, rotation, period = weight
    books = range(codes.shape[2])
    sums = sum(tables[m].double()[codes[..., m].long()] for m in books) - offset
    sums, norm = sums.reshape(len(codes), -1), step
    if rotation is not None:
        order = range(rotation.block)
        signs = [[(-1.0) ** (i & j).bit_count() for j in order] for i in order]
        sums = (sums.reshape(-1, rotation.block) @ torch.tensor(signs).double()).reshape(sums.shape)
        taps = sums.shape[1] // period
        sums = sums * kernels.sign_vector(rotation.seed, period).double().repeat(taps)
        norm = step * rotation.block**-0.5
    return (sums.float() * (scales.float() * norm)[:, None]).to(dtype)


def poisoned(shape, dtype):
    """A matrix with sentinels before and after it; gives it and all of the memory."""
    poison = 77 if dtype == torch.int8 else torch.nan
    whole = torch.full((64 + shape[0] * shape[1] + 64,), poison, dtype=dtype)
    return whole[64:-64].view(shape), whole


def intact(whole):
    ends = torch.cat((whole[:64], whole[-64:]))
    return bool((ends == 77).all() if whole.dtype == torch.int8 else ends.isnan().all())


def with_byte_sums(arguments):
    weight, dtype = arguments
    return weight._replace(codebooks=weight.codebooks // weight.codes.shape[2]), dtype


@pytest.mark.parametrize("books", range(1, 7))
@pytest.mark.parametrize(("width", "block"), [(40, 0), (192, 64), (128, 128)])
def test_bit_for_bit_eager_and_the_definition(width, block, books):
    dtype = DTYPES[(books + block // 64) % 3]
    arguments = case(3, width, books, block, dtype=dtype)
    out, whole = poisoned((3, width), dtype)
    assert triton_decode.decode_additive(*arguments, out=out) is out
    assert same(out, eager.decode_additive(*arguments))
    assert torch.equal(out, in_float64(*arguments))
    assert intact(whole)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [0, 64, 128])
def test_every_type(block, dtype):
    arguments = case(2, 128, 3, block, dtype=dtype, seed=5)
    found = triton_decode.decode_additive(*arguments)
    assert same(found, eager.decode_additive(*arguments))
    assert torch.equal(found, in_float64(*arguments))


@pytest.mark.parametrize("books", range(1, 7))
@pytest.mark.parametrize("block", [0, 64, 128])
def test_sums_that_are_bytes(block, books):
    arguments = with_byte_sums(case(3, 128, books, block, seed=books))
    found = triton_decode.decode_additive(*arguments, sums_are_bytes=True)
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("books", range(1, 7))
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("byte_sums", [False, True])
def test_the_largest_and_smallest_sums_fit(byte_sums, block, books):
    """Every weight of a block at an end of the range, in the pattern of a row of the transform."""
    weight, dtype = case(8, block, books, block, seed=1)
    tables = weight.codebooks
    generator = torch.Generator().manual_seed(block + books)
    signs = torch.randint(2, (2, 8), generator=generator, dtype=torch.uint8)
    tables[:, 0], tables[:, 1], tables[:, 2], tables[:, 3] = (
        0,
        255,
        signs[0] * 255,
        255 * (signs[0] ^ 1),
    )
    pick = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0], [2, 2], [2, 3], [3, 2], [1, 2]])
    codes = pick.repeat(1, block // 16).to(torch.uint8)[..., None].repeat(1, 1, books)
    arguments = weight._replace(codes=codes), dtype
    if byte_sums:
        arguments = with_byte_sums(arguments)
    found = triton_decode.decode_additive(*arguments, sums_are_bytes=byte_sums)
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [0, 128])
def test_scales_of_zero_and_near_the_ends_of_float16(block, dtype):
    weight, _ = case(8, 128, 3, block)
    scales = torch.tensor([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 300.0, -300.0, 1.0]).half()
    arguments = weight._replace(scales=scales), dtype
    found = triton_decode.decode_additive(*arguments)
    assert same(found, eager.decode_additive(*arguments))


@pytest.mark.parametrize("books", range(1, 7))
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (3, 5), (2, 4)])
def test_int8_sums(rows, groups, books):
    (codes, tables, *_), _ = with_byte_sums(case(rows, 8 * groups, books, seed=books))
    out, whole = poisoned((rows, 8 * groups), torch.int8)
    assert triton_decode.decode_additive_int8(codes, tables, 128, out=out) is out
    expected = sum(tables[m].int()[codes[..., m].long()] for m in range(books)) - 128
    assert torch.equal(out.int(), expected.flatten(1))
    assert torch.equal(out, eager.decode_additive_int8(codes, tables, 128))
    assert intact(whole)


@pytest.mark.parametrize("offset", [80, 127, 150, 178])
def test_int8_sums_of_any_offset(offset):
    (codes, tables, *_), _ = case(2, 48, 2, seed=offset)
    tables = 45 + tables % 38  # sums from 90 to 164, less offset signed bytes
    found = triton_decode.decode_additive_int8(codes, tables, offset)
    assert torch.equal(found, eager.decode_additive_int8(codes, tables, offset))


@pytest.mark.parametrize(
    ("rows", "width", "block"),
    [(1, 8, 0), (1, 128, 128), (129, 8, 0), (17, 224, 0), (65, 32, 0), (33, 128, 64)],
)
def test_any_number_of_rows(rows, width, block):
    arguments = case(rows, width, 3, block, seed=rows)
    assert same(triton_decode.decode_additive(*arguments), eager.decode_additive(*arguments))


@pytest.mark.parametrize("block", [64, 128])
def test_signs_repeat_for_every_tap_of_a_convolution(block):
    arguments = case(2, 256, 2, block, period=128)
    assert same(triton_decode.decode_additive(*arguments), eager.decode_additive(*arguments))
    taps = arguments[0]._replace(period=256), arguments[1]
    assert not same(triton_decode.decode_additive(*taps), eager.decode_additive(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 40), (2, 1025)])
def test_int8_bit_for_bit(rows, width, dtype):
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    found = triton_decode.decode_int8(codes, scales, dtype)
    assert same(found, eager.decode_int8(codes, scales, dtype))


@pytest.mark.parametrize(
    ("shape", "dtype", "layout"),
    [((3, 64), torch.float16, ""), ((2, 64), torch.float32, ""), ((64, 3), torch.float32, "t")],
)
def test_an_output_that_does_not_fit_is_refused(shape, dtype, layout):
    out = torch.empty(shape, dtype=dtype)
    with pytest.raises(ValueError, match=r"contiguous \(3, 64\) of torch.float32"):
        triton_decode.decode_additive(*case(3, 64, 2), out=out.t() if layout else out)


def test_codes_at_any_address():
    weight, dtype = case(3, 64, 3, 64)
    shifted = torch.cat((torch.zeros(1, dtype=torch.uint8), weight.codes.flatten()))[1:]
    assert shifted.data_ptr() % 4
    moved = weight._replace(codes=shifted.view(weight.codes.shape))
    found = triton_decode.decode_additive(moved, dtype)
    assert same(found, eager.decode_additive(weight, dtype))


def test_dispatch_chooses_these_kernels(monkeypatch):
    assert kernels.explain("decode_additive", CPU) == "decode_additive on cpu: triton"
    assert kernels.explain("decode_int8", CPU) == "decode_int8 on cpu: triton"
    arguments = case(3, 64, 3, 64)
    expected = kernels.decode(*arguments)  # tried before, against eager
    monkeypatch.setattr(triton_decode, "decode_additive", lambda *_, **__: "triton's")
    assert same(expected, eager.decode_additive(*arguments))
    assert kernels.decode(*arguments) == "triton's"


@pytest.mark.parametrize("block", [2, 32, 256])
def test_other_rotations_are_refused(block):
    case = constraints.Case(CPU, torch.float16, 3, block)
    why = kernels.explain("decode_additive", CPU, case)
    assert f"not triton: needs block 0, 64 or 128, found {block}" in why
    assert triton_ready.batch_refusal(case, True) == f"needs block 0, 64 or 128, found {block}"
