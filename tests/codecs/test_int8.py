import torch

from comfy_vq import codecs
from comfy_vq.evaluation import sqnr_db


def test_int8_rows_take_any_width():
    weight = torch.randn(32, 37, generator=torch.Generator().manual_seed(0)) * 0.02
    coded = codecs.encode(weight, 8, "int8")
    assert coded.codebooks is None
    assert coded.bits_per_weight == 8 + 16 / 37
    assert sqnr_db(weight, coded.decode()) > 38


def test_int8_decodes_by_the_documented_formula():
    weight = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    coded = codecs.encode(weight, 8, "int8")
    codes, scales = coded.tensors["codes"], coded.tensors["scales"].float()
    expected = codes[2, 5].float() * (scales[2] / 128)
    assert coded.decode()[2, 5, 0, 0] == expected


def test_int8_keeps_zero_rows():
    weight = torch.zeros(4, 16)
    weight[1] = 1.0
    assert torch.equal(codecs.encode(weight, 8, "int8").decode()[0], torch.zeros(16))
