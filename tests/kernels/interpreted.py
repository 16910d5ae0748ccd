"""The Triton kernels in Triton's interpreter: ``test_triton.py`` runs this in a process of its own.

The interpreter must be asked for before Triton is imported. It is slow: dimensions stay small.
"""

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import Rotation, eager, triton_decode

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
CPU = torch.device("cpu")


def bits(x):
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


def same(a, b):
    return a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def case(rows, width, books, block=0, period=None, dtype=torch.float32, seed=0):
    """Arguments of ``decode_additive``, random but for the shape."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(256, (rows, width // 8, books), dtype=torch.uint8, generator=generator)
    tables = torch.randint(256, (books, 256, 8), dtype=torch.uint8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    rotation = Rotation(block, seed + 7) if block else None
    return codes, tables, 0.0123, 131, scales, rotation, period or width, dtype


def in_float64(codes, tables, step, offset, scales, rotation, period, dtype):
    """The definition: only the factor of a row and the last two roundings are float32's."""
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("books", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("width", "block"), [(40, 0), (96, 0), (192, 64), (128, 128)])
def test_bit_for_bit_eager_and_the_definition(width, block, books, dtype):
    arguments = case(3, width, books, block, dtype=dtype)
    found = triton_decode.decode_additive(*arguments)
    assert same(found, eager.decode_additive(*arguments))
    assert torch.equal(found, in_float64(*arguments))


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
    taps = [*arguments[:-2], 256, arguments[-1]]
    assert not same(triton_decode.decode_additive(*taps), eager.decode_additive(*arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 40), (2, 1025)])
def test_int8_bit_for_bit(rows, width, dtype):
    generator = torch.Generator().manual_seed(width)
    codes = torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator)
    scales = torch.randn(rows, generator=generator).half()
    found = triton_decode.decode_int8(codes, scales, dtype)
    assert same(found, eager.decode_int8(codes, scales, dtype))


@pytest.mark.parametrize(("width", "block"), [(40, 0), (96, 0), (128, 64), (128, 128)])
def test_everything_is_written_and_nothing_beside_it(monkeypatch, width, block):
    arguments, held = case(5, width, 2, block), []

    def poisoned(shape, dtype, device):
        whole = torch.full((64 + shape[0] * shape[1] + 64,), torch.nan, dtype=dtype, device=device)
        held.append(whole)
        return whole[64:-64].view(shape)

    with monkeypatch.context() as patched:
        patched.setattr(triton_decode.torch, "empty", poisoned)
        found = triton_decode.decode_additive(*arguments)
    assert found.isfinite().all()
    (whole,) = held
    assert whole[:64].isnan().all() and whole[-64:].isnan().all()


def test_codes_at_any_address():
    arguments = case(3, 64, 3, 64)
    shifted = torch.cat((torch.zeros(1, dtype=torch.uint8), arguments[0].flatten()))[1:]
    assert shifted.data_ptr() % 4
    moved = (shifted.view(arguments[0].shape), *arguments[1:])
    assert same(triton_decode.decode_additive(*moved), eager.decode_additive(*arguments))


def test_dispatch_chooses_these_kernels(monkeypatch):
    assert kernels.explain("decode_additive", CPU) == "decode_additive on cpu: triton"
    assert kernels.explain("decode_int8", CPU) == "decode_int8 on cpu: triton"
    arguments = case(3, 64, 3, 64)
    expected = kernels.decode_additive(*arguments)  # tried before, against eager
    monkeypatch.setattr(triton_decode, "decode_additive", lambda *_: "triton's")
    assert same(expected, eager.decode_additive(*arguments))
    assert kernels.decode_additive(*arguments) == "triton's"


@pytest.mark.parametrize("block", [2, 4, 8, 16, 32, 256, 512, 1024])
def test_other_rotations_are_refused_and_decoded_in_eager(block):
    from comfy_vq.kernels.constraints import Case

    why = kernels.explain("decode_additive", CPU, Case(CPU, torch.float16, 3, block))
    assert why.endswith(f"eager; not triton: needs block 0, 64 or 128, found {block}")
    arguments = case(2, 1024, 1, block)
    assert same(kernels.decode_additive(*arguments), eager.decode_additive(*arguments))
