from __future__ import annotations

import pytest
import torch
from torch import nn

from comfy_vq.calibration import Collector, inputs
from comfy_vq.errors import VQError

from .networks import calibrated, collector, network, question, same, shapes


def test_the_moments_of_a_linear_layer_are_those_of_its_inputs():
    net, seen = network(), []
    net.q.register_forward_pre_hook(lambda layer, args: seen.append(args[0].reshape(-1, 16)))
    found = calibrated(net, question(0), question(1)).moments["q"]
    rows = torch.cat(seen)
    assert found.count == len(rows)
    torch.testing.assert_close(found.mean()[0], rows.T @ rows / len(rows))


def test_the_moments_of_a_convolution_are_those_of_its_pixels():
    net, asked = network(), question(0)
    found = calibrated(net, asked).moments["conv"]
    pixels = asked.permute(0, 2, 3, 1).reshape(-1, 8)
    assert found.count == len(pixels)
    torch.testing.assert_close(found.sums[0], pixels.T @ pixels)


def test_wide_inputs_are_cut_into_blocks(monkeypatch):
    monkeypatch.setattr(inputs, "WIDEST", 200)
    layer, x = nn.Linear(256, 8), torch.randn(5, 7, 256)
    found = Collector({"wide": layer}, {"wide": (8, 256)})
    with found.listening():
        layer(x)
    rows = x.reshape(-1, 256)
    whole = rows.T @ rows
    sums = found.result(1).moments["wide"].sums
    torch.testing.assert_close(sums, torch.stack([whole[:128, :128], whole[128:, 128:]]))


def test_layers_of_one_input_share_their_moments():
    moments = calibrated(network(), question(0), question(1)).moments
    assert moments["q"] is moments["k"] is moments["v"]
    assert moments["q"] is not moments["sometimes"]


def test_layers_that_stop_having_one_input_go_on_by_themselves():
    """Just as if they had never shared anything."""
    net, alone = network(), network()
    context = torch.randn(2, 5, 16)
    together, apart = collector(net), [collector(alone) for _ in "qkv"]
    with together.listening():
        net(question(0))
        net(question(1), context)
        net(question(2))
    for name, own in zip("qkv", apart, strict=True):
        own._layers = {name: getattr(alone, name)}
        with own.listening():
            alone(question(0))
            alone(question(1), context)
            alone(question(2))
    found = together.result(3).moments
    assert found["k"] is found["v"] and found["q"] is not found["k"]
    for name, own in zip("qkv", apart, strict=True):
        expected = own.result(3).moments[name]
        assert torch.equal(found[name].sums, expected.sums) and found[name].count == expected.count


def test_a_tensor_that_is_changed_in_place_is_another_input():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = self.first(x)
            return y + self.second(x.mul_(2))

    net, x = InPlace(), torch.randn(4, 8)
    found = collector(net)
    with found.listening(), torch.no_grad():
        net(x)
    moments = found.result(1).moments
    torch.testing.assert_close(moments["second"].sums, 4 * moments["first"].sums)


def test_a_layer_that_is_never_used_has_no_moments():
    assert "never" not in calibrated(network(), question(0)).moments


def test_what_is_continued_equals_what_was_never_interrupted():
    net, questions = network(), [question(i, batch=1 + i % 2) for i in range(4)]
    whole = calibrated(net, *questions)
    for cut in range(1, 4):
        first = calibrated(net, *questions[:cut])
        kept = {name: found.sums.clone() for name, found in first.moments.items()}
        assert same(calibrated(net, *questions[cut:], start=first), whole)
        assert all(torch.equal(found.sums, kept[name]) for name, found in first.moments.items())


def test_beyond_the_limit_of_memory_sums_lie_in_a_file_and_are_the_same():
    net, questions = network(), [question(i) for i in range(3)]
    for limit in (0, 3000):
        assert same(calibrated(net, *questions, limit=limit), calibrated(net, *questions))


def test_half_precision_inputs_are_summed_in_single_precision():
    layer = nn.Linear(8, 8).half()
    found = Collector({"layer": layer}, {"layer": (8, 8)})
    with found.listening():
        layer(torch.full((1000, 8), 100.0).half())  # the sum of squares is 10^7
    assert found.result(1).moments["layer"].sums.unique().tolist() == [1e7]


def test_sums_that_were_begun_in_inference_mode_can_be_continued_outside_of_it():
    net = network()
    with torch.inference_mode():
        first = calibrated(net, question(0))
    assert same(
        calibrated(net, question(1), start=first), calibrated(net, question(0), question(1))
    )


def test_no_hook_stays_behind():
    net = network()
    found = collector(net)
    with pytest.raises(KeyboardInterrupt), found.listening():
        raise KeyboardInterrupt
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_an_input_that_is_not_finite_is_refused_by_name():
    net = network()
    with pytest.raises(VQError, match=r"layer circular: found NaN or Inf in its input"):
        with torch.no_grad():
            net.conv.weight.fill_(torch.inf)
        calibrated(net, question(0))


def test_grouped_convolutions_are_left_out():
    layer = nn.Conv2d(16, 16, 3, groups=2)
    found = Collector({"layer": layer}, {"layer": tuple(layer.weight.shape)})
    with found.listening():
        layer(torch.randn(1, 16, 5, 5))
    assert not found.result(1).moments


def test_one_and_three_dimensional_convolutions():
    for layer, x in (
        (nn.Conv1d(8, 4, 3, padding="same"), torch.randn(2, 8, 9)),
        (nn.Conv3d(8, 4, (3, 1, 2), stride=2), torch.randn(8, 5, 6, 7)),
    ):
        found = Collector({"layer": layer}, {"layer": tuple(layer.weight.shape)})
        with found.listening():
            layer(x)
        moments = found.result(1).moments["layer"]
        assert moments.fits(tuple(layer.weight.shape))
        assert moments.count == x.numel() // 8


def test_another_model_is_not_continued():
    net = network()
    start = calibrated(net, question(0))
    other = {name: getattr(net, name) for name in ("q", "k")}
    with pytest.raises(VQError, match="calibration, layer conv: found no such layer"):
        Collector(other, {name: (16, 16) for name in other}, start)
    more = {**dict(net.named_children()), "new": nn.Linear(8, 8)}
    with pytest.raises(VQError, match="calibration, layer new: found it in the model only"):
        Collector(more, {**shapes(net), "new": (8, 8)}, start)
