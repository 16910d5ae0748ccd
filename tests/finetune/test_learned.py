"""Gradients of coded weights are those of the same weights decoded by plain arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from comfy_vq import codecs, kernels
from comfy_vq.codecs.weight import from_matrix
from comfy_vq.finetune.following import Follower, numbers
from comfy_vq.finetune.learned import LearnedWeight
from comfy_vq.finetune.learned_set import LearnedSet

CODED = [("additive", 3), ("trellis", 2), ("int8", 8)]


def coded(codec: str, bits: int, shape: tuple[int, ...] = (16, 128)) -> codecs.VQWeight:
    generator = torch.Generator().manual_seed(bits)
    return codecs.encode(torch.randn(shape, generator=generator), bits, codec, "fast")


def plain(weight: codecs.VQWeight, scales: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The dense matrix of values in units of the row scale, by operations of torch alone."""
    turned = values * scales[:, None]
    if weight.codec == "int8" or weight.spec.rotation is None:
        return turned
    rotation = weight.spec.rotation
    signs = kernels.sign_vector(rotation.seed, weight.shape[1])
    back = torch.linalg.inv(kernels.rotate(torch.eye(weight.shape[1]), rotation, weight.shape[1]))
    assert len(signs) == len(back)
    return turned @ back


@pytest.mark.parametrize(("codec", "bits"), CODED)
def test_factors_and_codes_get_their_gradients(codec, bits):
    weight = coded(codec, bits)
    learned = LearnedWeight(weight)
    learned.following = codec != "int8"
    x = torch.randn(5, 128, requires_grad=True)
    with learned.dense(torch.float32) as dense:
        F.linear(x, dense).square().sum().backward()

    factors = torch.ones(16, requires_grad=True)
    if codec == "int8":
        values = weight.tensors["codes"].float() / 128
    else:
        values = numbers(weight)
    values.requires_grad_(True)
    again = x.detach().clone().requires_grad_(True)
    scales = weight.tensors["scales"].float() * factors
    F.linear(again, plain(weight, scales, values)).square().sum().backward()
    torch.testing.assert_close(learned.factors.grad, factors.grad, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-4, atol=1e-2)
    if learned.following:
        torch.testing.assert_close(learned.gradient, values.grad, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("codec", "bits"), [("additive", 2), ("trellis", 2)])
def test_a_convolution_learns_as_well(codec, bits):
    learned = LearnedWeight(coded(codec, bits, (8, 16, 3, 3)))
    dense = learned.weight.decode().requires_grad_(True)
    x = torch.randn(2, 16, 6, 6)
    F.conv2d(x, dense).square().sum().backward()
    with learned.dense(torch.float32) as weight:
        F.conv2d(x, weight).square().sum().backward()
    expected = (dense.grad * dense.detach()).flatten(1).sum(1)
    torch.testing.assert_close(learned.factors.grad, expected, rtol=1e-4, atol=1e-2)


def test_no_decoded_weight_is_kept_for_backward():
    learned = LearnedWeight(coded("additive", 3, (512, 512)))
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    x = torch.randn(3, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        with learned.dense(torch.float32) as weight:
            y = F.linear(x, weight)
        y.sum().backward()
    assert learned.factors.grad is not None
    assert sum(kept) < 512 * 512


def test_scales_are_what_would_be_stored():
    learned = LearnedWeight(coded("additive", 2))
    with torch.no_grad():
        learned.factors.mul_(1.5)
    before = learned.scales.clone()
    learned.settle()
    assert learned.scales.dtype == torch.float16
    assert torch.equal(learned.scales, (before.float() * 1.5).half())


def test_entries_get_the_gradients_of_all_layers_that_share_them():
    weights = [coded("additive", 3), coded("additive", 3, (8, 16, 3, 3))]
    shared = weights[0].codebooks
    assert shared is not None
    learned_set = LearnedSet(shared)
    for weight in weights:
        x = torch.randn(5, *((128,) if len(weight.shape) == 2 else (16, 6, 6)))
        multiply = F.linear if len(weight.shape) == 2 else F.conv2d
        with LearnedWeight(weight, learned_set).dense(torch.float32) as dense:
            multiply(x, dense).square().sum().backward()

        entries = shared.codebooks.float().requires_grad_(True)
        chosen = sum(entries[m][weight.tensors["codes"][..., m].long()] for m in range(3))
        values = shared.step * (chosen - shared.offset).flatten(1)
        scales = weight.tensors["scales"].float()
        again = from_matrix(plain(weight, scales, values), weight.shape)
        multiply(x, again).square().sum().backward()
        torch.testing.assert_close(learned_set.entries.grad, entries.grad, rtol=1e-3, atol=1e-2)
        learned_set.entries.grad = None


def test_entries_are_what_would_be_stored_and_their_sums_stay_bytes():
    weight = coded("additive", 2)
    assert weight.codebooks is not None
    learned_set = LearnedSet(weight.codebooks)
    learned, before = LearnedWeight(weight, learned_set), weight.codebooks.codebooks.clone()
    with torch.no_grad():
        learned_set.entries.add_(0.4)
        learned_set.settle()
    assert torch.equal(learned.weight.decode(), weight.decode())
    with torch.no_grad():
        learned_set.entries.add_(200 * torch.randn_like(learned_set.entries))
        learned_set.settle()
        with learned.dense(torch.float32) as dense:
            assert torch.equal(dense, learned.weight.decode())
    assert not torch.equal(learned.weight.decode(), weight.decode())
    assert int(learned_set.stored.codebooks.amax((1, 2)).sum()) <= 255
    assert torch.equal(weight.codebooks.codebooks, before)


def test_a_shipped_set_that_has_changed_gets_a_name_that_is_free():
    shared = coded("additive", 2).codebooks
    assert shared is not None
    learned_set, known = LearnedSet(shared), {shared.name, f"tuned.{shared.name}"}
    assert learned_set.finished(known).name == shared.name
    with torch.no_grad():
        learned_set.entries.neg_()
        learned_set.settle()
    assert learned_set.finished(known).name == f"tuned.tuned.{shared.name}"


@pytest.mark.parametrize(("codec", "bits"), [("additive", 2), ("trellis", 2)])
def test_codes_come_nearer_to_a_target_that_moves_away(codec, bits):
    learned = LearnedWeight(coded(codec, bits))
    follower = Follower(learned, turns=4)
    aim = follower.target + 0.5 * torch.randn_like(follower.target)

    def distance() -> float:
        return float((numbers(learned.weight) - aim).square().mean())

    before = distance()
    for number in range(1, 41):
        learned.gradient = follower.target - aim
        follower.step(number, 0.05)
    assert distance() < 0.8 * before
    assert learned.gradient is None
