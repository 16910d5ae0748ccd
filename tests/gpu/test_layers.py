"""Layers of coded weights on the card: exact, in int8, and in a CUDA graph."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from benchmarks.layers import int8_linear
from benchmarks.random_vq import random_weight
from comfy_vq import compute

DTYPES = [torch.float16, torch.bfloat16, torch.float32]
WIDTHS = [("additive", 1), ("additive", 3), ("additive", 6), ("int8", 8)]
EXACT = [*WIDTHS, ("trellis", 2), ("trellis", 5)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("codec", "bits"), EXACT)
def test_linear_is_that_of_the_decoded_weight(device, codec, bits, dtype):
    weight = random_weight((96, 256), bits, codec)
    x, bias = normal(33, 256).to(device, dtype), normal(96).to(device, dtype)
    expected = F.linear(x, weight.decode(dtype).to(device), bias)
    assert torch.equal(compute.linear(x, weight.to(device), bias), expected)


CONVOLUTIONS = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "padding": {"padding": (1, 2)},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 4, "padding": 1},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_is_that_of_the_decoded_weight(device, options, dtype):
    groups = options.get("groups", 1)
    weight, bias = random_weight((48, 128 // groups, 3, 3), 3), normal(48)
    x = normal(2, 128, 12, 10)
    exact = weight.decode(dtype).double().contiguous()
    expected = F.conv2d(x.to(dtype).double(), exact, bias.to(dtype).double(), **options)
    found = compute.convolution(
        partial(F.conv2d, **options),
        x.to(device, dtype),
        weight.to(device),
        bias.to(device, dtype),
        groups,
    )
    assert found.is_contiguous()
    assert relative_error(found.cpu(), expected) < 4 * torch.finfo(dtype).eps


ACTIVATIONS = {"zero": 0.0, "denormal": 1e-40, "huge": 1e30}


@pytest.mark.parametrize("size", ACTIVATIONS.values(), ids=ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extreme_activations_make_no_nan(device, dtype, size):
    weight = random_weight((64, 256), 3).to(device)
    x = (normal(16, 256) * size).to(device, dtype)
    assert compute.linear(x, weight, None).isfinite().all()


@pytest.mark.parametrize("books", [1, 3, 6])
@pytest.mark.parametrize("width", [64, 640, 2048])
def test_int8_rounds_activations_and_nothing_else(device, width, books):
    """A row of normal activations has 127 steps to its largest, about 3.5 standard deviations:
    rounding leaves an error of 3.5 / 127 / sqrt(12), under one per cent."""
    pytest.importorskip("comfy_kitchen", reason="no comfy_kitchen: int8 compute is NOT TESTED")
    weight = random_weight((320, width), books).to(device)
    x = normal(77, width).to(device, torch.float32)
    expected = x.cpu().double() @ weight.decode(torch.float32).cpu().double().T
    error = relative_error(int8_linear(x, weight, None).cpu(), expected)
    assert 0.001 < error < 0.015


@pytest.mark.parametrize("size", [*ACTIVATIONS.values()], ids=[*ACTIVATIONS])
def test_int8_makes_no_nan(device, size):
    pytest.importorskip("comfy_kitchen", reason="no comfy_kitchen: int8 compute is NOT TESTED")
    weight = random_weight((64, 256), 3).to(device)
    x = (normal(32, 256) * size).to(device, torch.bfloat16)
    assert int8_linear(x, weight, None).isfinite().all()


@pytest.mark.parametrize(("codec", "bits"), WIDTHS)
def test_a_replayed_graph_gives_the_same_bits(device, codec, bits):
    if device.type == "cpu":
        pytest.skip("the CPU stands in for a graphics card, and has no graphs")
    weight = random_weight((1280, 640), bits, codec).to(device)
    other = random_weight((640, 1280), bits, codec, seed=1).to(device)

    def network(x):
        return compute.linear(compute.linear(x, weight, None), other, None)

    x = torch.zeros(64, 640, dtype=torch.float16, device=device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = network(x)
    for seed in range(3):
        x.copy_(normal(64, 640, seed=seed))
        expected = network(x)
        graph.replay()
        assert torch.equal(output, expected)
