"""Plans and formats on a network that nobody here trained, here a small random one."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("gguf")

from benchmarks.formats.floats import int8_rows
from benchmarks.sentence_network import Asked, random_tokens
from benchmarks.sentences import paragraphs
from benchmarks.third_party import (
    InMemory,
    Wanted,
    by_rule,
    heard,
    measured,
    ours,
    read,
    row,
    theirs,
)
from comfy_vq.calibration.gate import Gate
from comfy_vq.model import Source

WANTED = Wanted(3.0, "additive", "fast")


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
    probe = Asked(network, random_tokens())
    assert probe.noise() == probe.held_out_noise() == 0
    probe.exchange("layer.2", network.weights["layer.2.weight"] * 1.1)
    assert min(probe.noise(), probe.held_out_noise()) > 1e-4
    probe.exchange("layer.2", None)
    assert probe.noise() == probe.held_out_noise() == 0


def test_a_probe_asks_of_the_dense_network_whatever_it_was_given_before(network):
    network.load({key: weight * 2 for key, weight in network.weights.items()})
    assert Asked(network, random_tokens()).noise() == 0


def test_plans_by_rule_and_by_measuring_take_the_bits_asked_for(network, source):
    for planned in (
        by_rule("generic"),
        by_rule("text-encoders"),
        measured(network, random_tokens()),
    ):
        plan = planned(source, WANTED)
        assert plan.bits == pytest.approx(WANTED.bits, abs=0.02)
        assert set(plan.choices) == set(network.layers)


def test_what_is_measured_leaves_the_network_dense(network, source):
    measured(network, random_tokens())(source, WANTED)
    for name, layer in network.layers.items():
        assert torch.equal(layer.weight, network.weights[f"{name}.weight"])


def test_ours_are_made_once(network, tmp_path):
    path = tmp_path / "model.safetensors"
    first = ours(path, WANTED, by_rule("generic"))(network.weights)

    def planned(*_):
        raise AssertionError("made again")

    again = ours(path, WANTED, planned)(network.weights)
    assert first[1] == again[1]
    assert all(torch.equal(first[0][key], again[0][key]) for key in network.weights)


def test_a_calibration_hears_what_goes_into_each_layer(network):
    texts = random_tokens()
    calibration = heard(network, texts)
    x = torch.cat([network._embedding(tokens).flatten(0, 1) for tokens in texts]).detach()
    for name, layer in network.layers.items():
        expected = x.T @ x / len(x)
        found = calibration.moments[name].mean()
        torch.testing.assert_close(found.squeeze(0), expected, rtol=1e-4, atol=1e-5)
        x = layer(x).tanh().detach()


@pytest.mark.parametrize("by_measuring", [False, True], ids=["by rule", "measured"])
def test_under_a_calibration_answers_are_nearer(network, tmp_path, by_measuring):
    texts = random_tokens()
    planned = measured(network, texts) if by_measuring else by_rule("generic")
    noises = []
    for gate in (None, partial(Gate, heard(network, texts))):
        wanted = replace(WANTED, gate=gate)
        path = tmp_path / f"{gate is None}.safetensors"
        decoded, _ = ours(path, wanted, planned)(network.weights)
        probe = Asked(network, texts)
        network.load(decoded)
        noises.append(probe.held_out_noise())
    assert noises[1] < 0.9 * noises[0]


def test_paragraphs_are_prose():
    found = paragraphs()
    assert len(found) > 100
    assert len(set(found)) == len(found)
    assert all(text[0].isupper() and text.endswith(".") and "`" not in text for text in found)


def test_a_row_says_bits_and_both_errors(network):
    reference = read(network)
    made = theirs(int8_rows)(network.weights)
    cells = [cell.strip() for cell in row("int8", network, reference, made).strip("|").split("|")]
    assert cells[0] == "int8" and 8.1 < float(cells[1]) < 8.4
    assert float(cells[2]) > 40
    assert len(cells) == 5
    assert all(float(cell.split()[0]) > 30 for cell in cells[3:])
