"""Feedback is kept unless the network's own output speaks against it, and the result says where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from comfy_vq import codecs
from comfy_vq.calibration import Calibration, Collector, Moments
from comfy_vq.calibration import gate as gates
from comfy_vq.calibration.gate import Gate, describe
from comfy_vq.errors import VQError
from comfy_vq.model import VQModel
from comfy_vq.quantize import quantize
from toy_weights import Weights

LAYERS = ("first", "second", "third")


def weights_of(net: nn.Module) -> Weights:
    return Weights({f"{name}.weight": layer.weight.detach() for name, layer in net.items()})


class Asking:
    """A probe of a network, by fixed questions; counts them."""

    def __init__(self, net: nn.ModuleDict, questions: Tensor) -> None:
        self.weights = {name: layer.weight.detach().clone() for name, layer in net.items()}
        self.dense = dict(self.weights)
        self.layers = list(net)
        self.questions = questions
        self.expected = self.answer()
        self.asked = 0

    def answer(self) -> Tensor:
        x = self.questions
        for weight in self.weights.values():
            x = torch.tanh(x @ weight.T)
        return x

    def exchange(self, name: str, weight: Tensor | codecs.VQWeight | None) -> None:
        if isinstance(weight, codecs.VQWeight):
            weight = weight.decode()
        self.weights[name] = self.dense[name] if weight is None else weight

    def noise(self) -> float:
        self.asked += 1
        change = (self.answer() - self.expected).double()
        return float(change.square().sum() / self.expected.square().sum())

    held_out_noise = noise


@pytest.fixture(scope="module")
def net() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(128, 128, bias=False) for name in LAYERS})


def questions(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(128, 128, generator=torch.Generator().manual_seed(7))
    return torch.randn(400, 128, generator=generator) / torch.arange(1, 129) @ mix


@pytest.fixture(scope="module")
def calibration(net) -> Calibration:
    collector = Collector(net, {name: (128, 128) for name in LAYERS})
    with collector.listening(), torch.no_grad():
        x = questions(0)
        for layer in net.values():
            x = torch.tanh(layer(x))
    return collector.result(1)


def coded(net: nn.ModuleDict, gate: Gate | None, codec: str = "additive") -> VQModel:
    return quantize(weights_of(net), 3.13, effort="fast", family="generic", codec=codec, gate=gate)


def output_db(net: nn.ModuleDict, model: VQModel, seed: int = 1) -> float:
    probe = Asking(net, questions(seed))
    for name, weight in model.layers.items():
        probe.exchange(name, weight)
    return -10 * math.log10(probe.noise())


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_the_same_bits_come_nearer_to_the_network_on_other_questions(net, calibration, codec):
    plain, fed = coded(net, None, codec), coded(net, Gate(calibration), codec)
    assert fed.bits_per_weight == plain.bits_per_weight
    assert output_db(net, fed) > output_db(net, plain) + 2


def test_no_layer_makes_more_noise_than_without(net, calibration):
    """By the probe's own questions, each layer by itself."""
    plain, gated = (
        coded(net, None),
        coded(net, Gate(calibration, lambda: Asking(net, questions(2)))),
    )
    for name in gated.layers:
        found = []
        for model in (gated, plain):
            probe = Asking(net, questions(2))
            probe.exchange(name, model.layers[name])
            found.append(probe.noise())
        assert found[0] <= found[1]


def test_a_layer_whose_feedback_harms_the_output_is_coded_without(net, calibration):
    """What was calibrated is the opposite of what is asked."""
    wrong = calibration.moments["first"].sums[0]
    inverse = torch.linalg.inv(wrong + wrong.diagonal().mean() * 1e-4 * torch.eye(128))
    moments = {**calibration.moments, "first": Moments(inverse[None].contiguous(), 400)}
    gate = Gate(Calibration(calibration.shapes, moments, 1), lambda: Asking(net, questions(2)))
    model = coded(net, gate)
    assert gate.refused == {"first": gates.MORE_NOISE} and gate.kept == ["second", "third"]
    without = coded(net, None).layers["first"].tensors["codes"]
    assert torch.equal(model.layers["first"].tensors["codes"], without)
    unchecked = coded(net, Gate(gate.calibration))
    assert output_db(net, unchecked) < output_db(net, model)
    assert model.plan["calibration"] == {
        "pictures": 1,
        "gated": True,
        "layers": 2,
        "refused": {gates.MORE_NOISE: 1},
    }
    assert describe(model.plan["calibration"]) == (
        "calibrated on 1 pictures: 2 layers coded with feedback; "
        "1 without, much more noise in the network's output"
    )


def test_what_was_rejected_by_itself_is_asked_about_again_beside_all_others(net, calibration):
    """Kept after all where the whole model's noise is smaller with it."""

    class Turned(Asking):
        """By itself the first layer seems to be better off without feedback, always."""

        def noise(self) -> float:
            found, changed = super().noise(), self.weights["first"] is not self.dense["first"]
            alone = all(self.weights[name] is self.dense[name] for name in ("second", "third"))
            self.turns = getattr(self, "turns", 0) + (changed and alone)
            return found + 1e3 * (3 - self.turns) if changed and alone else found

    probe = Turned(net, questions(2))
    gate = Gate(calibration, lambda: probe)
    model = coded(net, gate)
    assert probe.turns == 2 and not gate.refused and set(gate.kept) == set(LAYERS)
    everywhere = coded(net, Gate(calibration))
    for name, weight in everywhere.layers.items():
        assert torch.equal(model.layers[name].tensors["codes"], weight.tensors["codes"])


def test_the_network_is_left_dense(net, calibration):
    probe = Asking(net, questions(2))
    coded(net, Gate(calibration, lambda: probe))
    assert probe.noise() == 0


def test_cheap_criteria_come_first(net, calibration):
    """A layer that was not heard, or whose moments are none, is not asked about."""
    bad = torch.eye(128)
    bad[0, 1] = bad[1, 0] = 50.0
    silent = Moments(torch.zeros(1, 128, 128), 10)
    for moments, reason in (
        ({}, gates.NOT_HEARD),
        ({"first": silent}, gates.NOT_HEARD),
        ({"first": Moments(bad[None], 1)}, gates.NOT_POSITIVE),
    ):
        probe = Asking(net, questions(2))
        gate = Gate(Calibration({"first": (128, 128)}, moments, 1), lambda probe=probe: probe)
        coded(net, gate)
        assert gate.refused["first"] == reason and probe.asked == 0


def test_layers_at_eight_bits_are_coded_as_ever(net, calibration):
    gate = Gate(calibration)
    model = quantize(weights_of(net), 8.13, effort="fast", family="generic", gate=gate)
    eight = {name for name, weight in model.layers.items() if weight.codec == "int8"}
    assert eight and eight.isdisjoint(gate.kept) and eight.isdisjoint(gate.refused)


def test_a_calibration_of_another_model_is_refused_before_the_work(net, calibration, monkeypatch):
    monkeypatch.setattr(codecs, "encode", None)
    other = Calibration({**calibration.shapes, "fourth": (8, 8)}, calibration.moments, 1)
    with pytest.raises(VQError, match="calibration, layer fourth: found no such layer"):
        coded(net, Gate(other))


def test_the_gate_counts_in_what_tells_quantizations_apart(net, calibration):
    probe = Asking(net, questions(2))
    assert Gate(calibration).fingerprint() == Gate(calibration).fingerprint()
    assert Gate(calibration).fingerprint() != Gate(calibration, lambda: probe).fingerprint()
