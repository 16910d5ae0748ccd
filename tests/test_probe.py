"""A probe of a host's model, on the smallest host there is."""

import torch

from comfy_vq import codecs
from comfy_vq.probe import BenchProbe
from evaluation.toy import Network, ToyBench

LAYERS = ("conv", "mix", "out")


def probe(network: Network) -> BenchProbe:
    own = {name: network.get_submodule(name).weight.detach().clone() for name in LAYERS}
    modules = {name: network.get_submodule(name) for name in LAYERS}
    return BenchProbe(network, modules, own.__getitem__, ToyBench(2), ToyBench(3))


def test_the_dense_network_makes_no_noise():
    asked = probe(Network())
    assert asked.noise() == asked.held_out_noise() == 0


def test_an_exchanged_weight_shows_and_goes():
    network = Network()
    asked = probe(network)
    before = network.out.weight.detach().clone()
    asked.exchange("out", before * 1.1)
    assert asked.noise() > 0
    assert asked.held_out_noise() > 0
    asked.exchange("out", None)
    assert asked.noise() == asked.held_out_noise() == 0
    assert torch.equal(network.out.weight, before)


def test_a_coded_weight_is_decoded():
    network = Network()
    asked = probe(network)
    weight = codecs.encode(network.out.weight.detach(), 3)
    asked.exchange("out", weight)
    assert torch.equal(network.out.weight.detach(), weight.decode())


def test_noise_is_relative_to_the_answers():
    """A last layer whose weight and bias are 10 % larger makes every answer 10 % larger."""
    network = Network()
    network.out.bias.data.zero_()
    asked = probe(network)
    asked.exchange("out", network.out.weight.detach() * 1.1)
    assert abs(asked.noise() - 0.01) < 1e-5
    assert abs(asked.held_out_noise() - 0.01) < 1e-5
