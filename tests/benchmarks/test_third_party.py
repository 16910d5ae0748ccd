"""Plans and formats on a network that nobody here trained, here a small random one."""

from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("gguf")

from benchmarks.formats.floats import int8_rows
from benchmarks.sentence_network import RandomTokens
from benchmarks.sentences import SENTENCES
from benchmarks.third_party import InMemory, by_rule, measured, ours, row, theirs
from comfy_vq.model import Source

BITS = 3.0


class Network:
    """Reads tokens as the sentence network does."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._embedding = nn.Embedding(30000, 128)
        widths = [128, 192, 64, 320] * 4 + [128]
        pairs = enumerate(pairwise(widths))
        self.layers = {f"layer.{n}": nn.Linear(*pair, bias=False) for n, pair in pairs}
        self.weights = {f"{n}.weight": m.weight.detach().clone() for n, m in self.layers.items()}

    def load(self, weights):
        for name, layer in self.layers.items():
            layer.weight.data.copy_(weights[f"{name}.weight"])

    @torch.inference_mode()
    def states(self, tokens):
        x = self._embedding(tokens)
        for layer in self.layers.values():
            x = layer(x).tanh()
        return x

    def read(self, sentences):
        tokens = [torch.tensor([len(word) for word in one.split()]) for one in sentences]
        return {"states": [self.states(one[None])[0] for one in tokens]}


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def source(network):
    return InMemory(network.weights, Source("toy"))


def test_a_probe_sees_a_changed_layer_until_it_is_put_back(network):
    probe = RandomTokens(network)
    assert probe.noise() == probe.held_out_noise() == 0
    probe.exchange("layer.2", network.weights["layer.2.weight"] * 1.1)
    assert min(probe.noise(), probe.held_out_noise()) > 1e-4
    probe.exchange("layer.2", None)
    assert probe.noise() == probe.held_out_noise() == 0


def test_a_probe_asks_of_the_dense_network_whatever_it_was_given_before(network):
    network.load({key: weight * 2 for key, weight in network.weights.items()})
    assert RandomTokens(network).noise() == 0


def test_plans_by_rule_and_by_measuring_take_the_bits_asked_for(network, source):
    for planned in (by_rule("generic"), by_rule("text-encoders"), measured(network)):
        plan = planned(source, BITS, "additive", "fast")
        assert plan.bits == pytest.approx(BITS, abs=0.02)
        assert set(plan.choices) == set(network.layers)


def test_what_is_measured_leaves_the_network_dense(network, source):
    measured(network)(source, BITS, "additive", "fast")
    for name, layer in network.layers.items():
        assert torch.equal(layer.weight, network.weights[f"{name}.weight"])


def test_ours_are_made_once(network, tmp_path):
    path = tmp_path / "model.safetensors"
    first = ours(path, BITS, "additive", "fast", by_rule("generic"))(network.weights)

    def planned(*_):
        raise AssertionError("made again")

    again = ours(path, BITS, "additive", "fast", planned)(network.weights)
    assert first[1] == again[1]
    assert all(torch.equal(first[0][key], again[0][key]) for key in network.weights)


def test_a_row_says_bits_and_both_errors(network):
    reference = network.read(SENTENCES)
    made = theirs(int8_rows)(network.weights)
    cells = [cell.strip() for cell in row("int8", network, reference, made).strip("|").split("|")]
    assert cells[0] == "int8" and 8.1 < float(cells[1]) < 8.4
    assert float(cells[2]) > 40 and float(cells[3].split()[0]) > 30
