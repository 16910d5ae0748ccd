"""The product in int8: how far it is from exact, and what of that is known beforehand."""

import pytest
import torch
import torch.nn.functional as F

from comfy_vq.hosts.comfy.model import int8
from comfy_vq.hosts.comfy.model.layout import decode
from host.coded_layers import PRECISIONS, activations, coded, exactly


def share(found, expected):
    """Of the error's power in what is expected."""
    found, expected = found.double(), expected.double()
    return float((found - expected).square().sum() / expected.square().sum())


WEIGHTS = {f"{bits} bits": {"bits": bits} for bits in (1, 2, 3, 4)}
WEIGHTS |= {f"rotation {block}": {"rotation": block} for block in (64, 128, None)}
WEIGHTS |= {"int8": {"bits": 8, "codec": "int8"}}
WEIGHTS |= {f"trellis {bits} bits": {"bits": bits, "codec": "trellis"} for bits in (2, 3, 4, 5)}
WEIGHTS |= {"trellis as it is": {"codec": "trellis", "rotation": None}}


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_its_error_is_that_of_rounding_the_activations(name, dtype):
    weight, x = coded(**WEIGHTS[name]), activations(33, dtype=dtype)
    bias = torch.randn(48, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = exactly(weight, x.float())
    found = int8.linear(x, weight, bias)
    assert found.shape == (2, 33, 48) and found.dtype == dtype
    error, signal = int8.rounding(x, weight).tolist()
    assert 1e-5 < error / signal < 1e-3
    written = torch.finfo(dtype).eps ** 2
    assert share(found - bias.double(), expected) < 1.3 * error / signal + 2 * written


@pytest.mark.parametrize("tokens", [1, 2, 7, 129])
@pytest.mark.parametrize("biased", [True, False])
def test_any_number_of_tokens(tokens, biased):
    weight, x = coded(), activations(tokens, pictures=1)
    bias = torch.ones(48) if biased else None
    expected = F.linear(x, decode(weight, torch.float32), bias)
    assert share(int8.linear(x, weight, bias), expected) < 3e-4
    assert torch.allclose(int8.linear(x[0], weight, bias), int8.linear(x, weight, bias)[0])


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("rotation", [128, None])
def test_zeros_denormals_and_huge_activations_give_no_nan(rotation, dtype):
    weight, limits = coded(rotation=rotation), torch.finfo(dtype)
    x = activations(5, dtype=dtype)
    x[:, 0], x[:, 1], x[:, 2] = 0, limits.smallest_normal / 4, limits.max / 64
    x[:, 3, 7] = limits.max / 64
    found = int8.linear(x, weight, None)
    dense = exactly(weight, x)
    assert dense.isfinite().all() and found.isfinite().all()
    assert not found[:, 0].any() and share(found[:, 2:3], dense[:, 2:3]) < 0.01


def test_what_is_measured_does_not_depend_on_slices_or_batches(monkeypatch):
    weight, x = coded(), activations(40)
    whole = int8.rounding(x, weight)
    separate = sum(int8.rounding(picture[None], weight) for picture in x)
    monkeypatch.setattr(int8, "_SLICE", 6 * 256)
    assert torch.allclose(int8.rounding(x, weight), whole, rtol=1e-4)
    assert torch.allclose(separate, whole, rtol=1e-4)
    assert torch.allclose(int8.rounding(x.view(2, 8, 5, 256), weight), whole, rtol=1e-4)


@pytest.mark.parametrize(
    ("weight", "possible"),
    [
        ({"shape": (48, 256)}, True),
        ({"shape": (48, 8), "rotation": None}, False),  # graphics cards multiply 16 bytes at a time
        ({"shape": (4, 256)}, False),
        ({"shape": (16, 16, 3, 3), "rotation": None}, False),
        ({"shape": (16, 32), "codec": "int8", "bits": 8}, True),
        ({"shape": (48, 256), "codec": "trellis"}, True),
        ({"shape": (16, 16, 3, 3), "codec": "trellis", "rotation": None}, False),
    ],
)
def test_which_weights_have_a_form_in_bytes(weight, possible):
    assert int8.can_multiply(coded(**weight)) == possible
