import pytest
import torch

from comfy_vq import codecs, kernels


def coded(rows, columns, books=3):
    generator = torch.Generator().manual_seed(0)
    return codecs.encode(torch.randn(rows, columns, generator=generator), books, effort="fast")


def decode(weight, dtype=torch.float32, codes=None):
    stored = weight.coded()
    return kernels.decode(stored if codes is None else stored._replace(codes=codes), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lower_precisions_are_the_rounded_float32_weight(dtype):
    weight = coded(32, 128)
    assert torch.equal(decode(weight, dtype), decode(weight).to(dtype))


def test_rotated_decoding_is_exact_up_to_one_rounding():
    weight = coded(16, 128)
    s, rotation = weight.codebooks, weight.spec.rotation
    codes = weight.tensors["codes"].long()
    tables = s.codebooks.double()
    sums = sum(tables[m][codes[..., m]] for m in range(3)) - s.offset
    sums = sums.reshape(16, 128)
    signs = kernels.sign_vector(rotation.seed, 128).double()
    order = range(128)
    parity = torch.tensor([[(i & j).bit_count() % 2 for j in order] for i in order])
    turned = (sums @ (1.0 - 2.0 * parity.double())) * signs
    factor = weight.tensors["scales"].float() * (s.step * 128**-0.5)
    assert torch.equal(decode(weight), turned.float() * factor[:, None])


def test_slices_do_not_change_the_result(monkeypatch):
    weight = coded(33, 128)
    whole = decode(weight)
    from comfy_vq.kernels import eager

    monkeypatch.setattr(eager, "_SLICE", 5 * 128)
    assert torch.equal(decode(weight), whole)
