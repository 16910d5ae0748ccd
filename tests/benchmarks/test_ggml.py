"""ggml through ctypes, against GGUF's own Python package."""

import ctypes

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf")

from benchmarks.formats import ggml as module
from benchmarks.formats import gguf_layers
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db

MATRIX = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 0.02
KINDS = ("Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4")
KINDS += ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS")


def test_without_ggml_its_package_is_named(monkeypatch):
    monkeypatch.setattr(module, "_installed", list)
    with pytest.raises(VQError, match="pip install --no-deps pywhispercpp"):
        module.library.__wrapped__()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_plain_types_are_what_the_python_package_makes(real_ggml, kind):
    expected = gguf.quants.quantize(MATRIX.numpy(), gguf.GGMLQuantizationType[kind])
    assert np.array_equal(real_ggml.quantize(MATRIX, kind), expected)


class _Traits(ctypes.Structure):
    """The head of ggml's ``ggml_type_traits``."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("block_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_is_what_ggml_itself_decodes(real_ggml, kind):
    stored = real_ggml.quantize(MATRIX, kind)
    traits = real_ggml.library().ggml_get_type_traits
    traits.restype = ctypes.POINTER(_Traits)
    found = traits(int(gguf.GGMLQuantizationType[kind])).contents
    expected = np.empty(MATRIX.shape, np.float32)
    found.to_float(stored.ctypes.data, expected.ctypes.data, MATRIX.numel())
    assert np.allclose(real_ggml.dequantize(stored, kind).numpy(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "bits", "least"), [("Q4_K", 4.5, 22), ("Q3_K", 3.4375, 16), ("Q2_K", 2.625, 10)]
)
def test_k_types_take_the_bits_that_they_are_known_for(real_ggml, kind, bits, least):
    stored = real_ggml.quantize(MATRIX, kind)
    assert 8 * stored.nbytes / MATRIX.numel() == bits
    assert sqnr_db(MATRIX, real_ggml.dequantize(stored, kind)) > least


def test_what_is_important_is_coded_more_exactly(real_ggml):
    importance = torch.ones(512)
    importance[::2] = 100
    errors = {}
    for name, given in {"plain": torch.ones(512), "weighted": importance}.items():
        decoded = real_ggml.dequantize(real_ggml.quantize(MATRIX, "IQ4_XS", given), "IQ4_XS")
        errors[name] = sqnr_db(MATRIX[:, ::2], decoded[:, ::2])
    assert errors["weighted"] > errors["plain"] + 0.3


def test_rows_that_do_not_fit_are_refused(real_ggml):
    with pytest.raises(
        VQError, match="Q4_K: found rows of 320 weights, expected a multiple of 256"
    ):
        real_ggml.quantize(MATRIX[:, :320], "Q4_K")


def test_layers_whose_rows_do_not_fit_take_another_type(real_ggml):
    narrow = MATRIX[:, :384].contiguous()
    own, flat = gguf_layers.own_rows("Q4_K")(narrow), gguf_layers.flattened("Q4_K")(narrow)
    assert 8 * own[1] / narrow.numel() == 5.5 and 8 * flat[1] / narrow.numel() == 4.5
    assert own[0].shape == flat[0].shape == narrow.shape
    assert sqnr_db(narrow, own[0]) > sqnr_db(narrow, flat[0]) > 20
