"""Low-rank additions beside a weight do what they do within it."""

import pytest
import torch
import torch.nn.functional as F

from comfy_vq.lowrank import Beside, LowRank

CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def part(rows, columns, rank, scale=1.0, seed=0):
    """An addition to all of a weight."""
    up, down = random(rows, rank, seed=seed), random(rank, columns, seed=seed)
    return LowRank(up, down, scale, None, slice(0, rows), slice(0, columns))


def change(parts, shape):
    """What the parts add to the weight, as a matrix."""
    total = torch.zeros(shape[0], torch.Size(shape[1:]).numel())
    for one in parts:
        up, down = one.factors(torch.float32, CPU)
        total[one.rows, one.columns] += up @ down
    return total.view(shape)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)], ids=str)
@pytest.mark.parametrize("grad", [False, True])
def test_beside_a_linear_layer(shape, grad):
    parts = [part(8, 6, 2, 0.5), part(8, 6, 3, -2.0, seed=1)]
    weight, x = random(8, 6, seed=2), random(*shape, seed=3)
    with torch.set_grad_enabled(grad):
        found = Beside(parts, (8, 6)).add_linear(F.linear(x, weight), x)
    assert torch.allclose(found, F.linear(x, weight + change(parts, (8, 6))), atol=1e-4)


def test_several_are_one_pair_of_matrices():
    up, down = Beside([part(8, 6, 2), part(8, 6, 3)], (8, 6)).factors(torch.float32, CPU)
    assert (up.shape, down.shape) == ((8, 5), (5, 6))


def test_in_some_rows_and_columns_alone():
    inner = LowRank(random(3, 2), random(2, 4), 1.5, None, slice(5, 8), slice(1, 5))
    parts = [inner, part(8, 6, 1)]
    x = random(4, 6)
    for chosen in (parts, parts[:1]):
        found = Beside(chosen, (8, 6)).add_linear(torch.zeros(4, 8), x)
        assert torch.allclose(found, F.linear(x, change(chosen, (8, 6))), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}], ids=str)
def test_beside_a_convolution(options):
    shape, x = (8, 4, 3, 3), random(2, 4, 9, 9)
    parts = [part(8, 36, 2), part(8, 36, 1, 0.3, seed=1)]

    def convolve(input, weight, bias):
        return F.conv2d(input, weight, bias, **options)

    weight = random(*shape)
    found = Beside(parts, shape).add_convolution(convolve(x, weight, None), x, convolve)
    assert torch.allclose(found, convolve(x, weight + change(parts, shape), None), atol=1e-3)


@pytest.mark.parametrize(
    ("convolve", "kernel", "size"),
    [(F.conv1d, (3,), (9,)), (F.conv3d, (3, 1, 2), (4, 5, 6))],
    ids=["1d", "3d"],
)
def test_beside_convolutions_of_other_ranks(convolve, kernel, size):
    shape, x = (8, 4, *kernel), random(2, 4, *size)
    parts = [part(8, 4 * torch.Size(kernel).numel(), 2)]
    weight = random(*shape)
    found = Beside(parts, shape).add_convolution(convolve(x, weight), x, convolve)
    assert torch.allclose(found, convolve(x, weight + change(parts, shape)), atol=1e-3)


def test_the_tucker_form_of_a_convolution():
    """Down, core and up are three convolutions, one after the other."""
    down, core, up = random(3, 4, 1, 1), random(3, 3, 3, 3), random(8, 3, 1, 1)
    whole = slice(0, 8), slice(0, 36)
    x = random(2, 4, 7, 7)
    expected = F.conv2d(F.conv2d(F.conv2d(x, down), core, padding=1), up) * 0.7

    def convolve(input, weight, bias):
        return F.conv2d(input, weight, bias, padding=1)

    beside = Beside([LowRank(up, down, 0.7, core, *whole)], (8, 4, 3, 3))
    found = beside.add_convolution(torch.zeros_like(expected), x, convolve)
    assert torch.allclose(found, expected, atol=1e-4)


def test_the_scale_does_not_vanish_in_half_precision():
    tiny = LowRank(
        torch.full((4, 1), 6e-5).half(), torch.ones(1, 4), 1e-3, None, slice(0, 4), slice(0, 4)
    )
    up, _ = tiny.factors(torch.float32, CPU)
    assert torch.allclose(up, torch.full((4, 1), 6e-8), rtol=1e-2)


def test_pays_while_it_multiplies_less_than_the_weight():
    assert Beside([part(16, 16, 8)], (16, 16)).pays()
    assert not Beside([part(16, 16, 8), part(16, 16, 1)], (16, 16)).pays()


def test_keeps_its_matrices_on_request():
    beside = Beside([part(8, 6, 2, 0.5)], (8, 6))
    before = beside.factors(torch.float32, CPU)
    assert beside.nbytes == 0
    beside.keep(torch.float32, CPU)
    assert beside.nbytes == 4 * beside.numel == 4 * 2 * (8 + 6)
    kept = beside.factors(torch.float32, CPU)
    assert all(map(torch.equal, before, kept))
    assert beside.factors(torch.float32, CPU)[0] is kept[0]
    assert beside.factors(torch.float16, CPU)[0].dtype == torch.float16
    beside.keep(torch.float16, CPU)
    assert beside.nbytes == 2 * beside.numel
    beside.forget()
    assert beside.nbytes == 0


def test_what_is_kept_in_inference_mode_can_be_used_outside_of_it():
    beside = Beside([part(8, 6, 2), part(8, 6, 1)], (8, 6))
    with torch.inference_mode():
        beside.keep(torch.float32, CPU)
    x = random(3, 6).requires_grad_()
    beside.add_linear(torch.zeros(3, 8), x).sum().backward()
    assert x.grad is not None
