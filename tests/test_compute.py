"""Layers that multiply with coded weights give what dense layers of the decoded weights give."""

import pytest
import torch
import torch.nn.functional as F

from comfy_vq import codecs, compute
from comfy_vq.kernels import scratch


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coded(*shape, bits=3):
    codec = "int8" if bits == 8 else "additive"
    return codecs.encode(gaussian(*shape), bits, codec, effort="fast")


@pytest.fixture(autouse=True, params=[scratch.LIMIT, 3000], ids=["whole", "in slices"])
def limit(request, monkeypatch):
    monkeypatch.setattr(scratch, "LIMIT", request.param)
    monkeypatch.setattr(compute, "LIMIT", request.param)
    return request.param


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("tokens", [(1,), (2, 3)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_linear(bits, tokens, biased):
    weight, bias = coded(19, 128, bits=bits), gaussian(19) if biased else None
    input = gaussian(*tokens, 128, seed=1)
    expected = F.linear(input, weight.decode(), bias)
    assert torch.allclose(compute.linear(input, weight, bias), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_weight_is_decoded_to_the_input_s_dtype(dtype):
    weight, input = coded(8, 64), gaussian(3, 64).to(dtype)
    found = compute.linear(input, weight)
    assert found.dtype == dtype
    assert torch.allclose(found, F.linear(input, weight.decode(dtype)), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "geometry",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1},
        {"padding": (2, 1), "dilation": 2},
        {"stride": (1, 2), "padding": "valid"},
        {"padding": 1, "groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
def test_conv2d(geometry, memory):
    groups = geometry.get("groups", 1)
    weight, bias = coded(12, 16 // groups, 3, 3), gaussian(12)
    input = gaussian(2, 16, 9, 7, seed=1).contiguous(memory_format=memory)
    found = compute.convolution(
        lambda x, w, b: F.conv2d(x, w, b, **geometry), input, weight, bias, groups
    )
    expected = F.conv2d(input, weight.decode().contiguous(), bias, **geometry)
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.is_contiguous(memory_format=memory)


@pytest.mark.parametrize(
    ("convolve", "size", "kernel"),
    [(F.conv1d, (9,), (3,)), (F.conv3d, (3, 4, 5), (3, 1, 1)), (F.conv3d, (2, 4, 4), (1, 2, 2))],
    ids=["1d", "3d in time", "3d in space"],
)
def test_other_convolutions(convolve, size, kernel):
    weight, bias = coded(12, 16, *kernel), gaussian(12)
    input = gaussian(2, 16, *size, seed=1)
    found = compute.convolution(convolve, input, weight, bias)
    assert torch.allclose(found, convolve(input, weight.decode(), bias), atol=1e-4)


def test_slices_fit_into_the_scratch_buffer(limit, monkeypatch):
    asked = []
    real = compute.scratch
    monkeypatch.setattr(compute, "scratch", lambda r, c, *rest: asked.append(r * c * 4)
                        or real(r, c, *rest))  # fmt: skip
    compute.linear(gaussian(1, 128), coded(19, 128))
    assert max(asked) <= limit and sum(asked) == 19 * 128 * 4
    assert len(asked) == -(-sum(asked) // limit)


def test_gradients_reach_the_input():
    first, second = coded(16, 64), coded(16, 64, bits=4)
    input = gaussian(3, 64).requires_grad_()
    outputs = compute.linear(input, first), compute.linear(input, second)
    (found,) = torch.autograd.grad(outputs[0].sum() + 2 * outputs[1].sum(), input)
    expected = first.decode().sum(0) + 2 * second.decode().sum(0)
    assert torch.allclose(found, expected.expand(3, 64), atol=1e-4)
