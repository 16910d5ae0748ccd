"""Plans by measuring, on a network whose answers are known."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from comfy_vq.codecs import VQWeight
from comfy_vq.plan import Layer, Task
from comfy_vq.plan.measured import coded, measured_plan

SHAPES = {f"blocks.{i}": (256, 384 + 32 * i) for i in range(8)}
LOUD = ("blocks.1", "blocks.4")
"""Layers that show far more than the others; no table can know them."""


class Network:
    """Layers side by side: the answer is the sum of what each makes of its own input."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = {
            name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()
        }
        self.inputs = {
            name: torch.randn(columns, 32, generator=generator) * (30 if name in LOUD else 1)
            for name, (_, columns) in SHAPES.items()
        }
        self.held = dict(self.weights)
        self.exchanged: list[str] = []

    @property
    def layers(self) -> list[str]:
        return list(self.weights)

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        decoded = weight.decode() if isinstance(weight, VQWeight) else weight
        self.held[layer] = self.weights[layer] if decoded is None else decoded
        self.exchanged.append(layer)

    def noise(self) -> float:
        change = sum((self.held[n] - w) @ self.inputs[n] for n, w in self.weights.items())
        whole = sum(w @ self.inputs[n] for n, w in self.weights.items())
        return float(change.square().sum() / whole.square().sum())

    def held_out_noise(self) -> float:
        return self.noise()


def task_of(network: Network, bits: float = 3.1, **how) -> Task:
    layers = [Layer(name, shape, 16) for name, shape in SHAPES.items()]
    return Task.of(layers, 0, 0, bits, family="generic", **how)


def noise_of(network: Network, plan) -> float:
    for name, choice in plan.choices.items():
        network.exchange(name, coded(network.weights[name], choice, 0))
    noise = network.noise()
    for name in network.layers:
        network.exchange(name, None)
    return noise


def measure(network: Network, task: Task, **how):
    return measured_plan(task, task.solve(), network.weights.__getitem__, network, **how)


@pytest.fixture(scope="module")
def measured():
    network, seen = Network(), []
    task = task_of(network)
    plan = measure(network, task, on_layer=lambda *told: seen.append(told))
    return network, task, plan, seen


def test_layers_that_show_get_more_bits(measured):
    network, task, plan, _ = measured
    loud = [plan.choices[name].bits for name in LOUD]
    quiet = [choice.bits for name, choice in plan.choices.items() if name not in LOUD]
    assert min(loud) > max(quiet)
    assert noise_of(network, plan) < 0.5 * noise_of(network, task.solve())


def test_the_average_still_holds(measured):
    plan = measured[2]
    assert abs(plan.bits - 3.1) <= 0.02


def test_the_noise_that_it_names_is_the_one_that_was_measured(measured):
    network, _, plan, _ = measured
    expected = -10 * torch.log10(torch.tensor(noise_of(network, plan)))
    assert plan.sqnr_db is not None
    assert abs(plan.sqnr_db - float(expected)) < 0.01


def test_sensitivities_are_kept(measured):
    network, _, plan, _ = measured
    assert set(plan.sensitivity_db) == set(network.layers)
    apart = plan.sensitivity_db[LOUD[0]] - plan.sensitivity_db["blocks.0"]
    assert 26 < apart < 33  # inputs are 30 times as large: 29.5 dB
    assert plan.summary()["sensitivity_db"] == plan.sensitivity_db


def test_a_layer_that_was_not_seen_to_matter_is_taken_to_matter_a_little():
    class Late(Network):
        """One layer has no part in what layers are measured by, and much in what plans are."""

        def noise(self) -> float:
            held = self.held["blocks.3"]
            self.held["blocks.3"] = self.weights["blocks.3"]
            noise = super().noise()
            self.held["blocks.3"] = held
            return noise

        def held_out_noise(self) -> float:
            return super().noise()

    network = Late()
    network.inputs["blocks.3"] *= 30
    found = dict(measure(network, task_of(network)).sensitivity_db)
    least = 10 ** (found.pop("blocks.3") / 10)
    shown = [10 ** (decibels / 10) - least for decibels in found.values()]
    assert least == pytest.approx(0.1 * statistics.geometric_mean(shown), rel=0.01)


class Breaking(Network):
    """A layer that hardly shows, until it is coded by less than three bits."""

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        super().exchange(layer, weight)
        if (
            layer == "blocks.0"
            and isinstance(weight, VQWeight)
            and weight.nbytes < weight.numel / 3
        ):
            own = self.weights[layer]
            self.held[layer] = own + 30 * (self.held[layer] - own)


def all_alike(layer: str) -> Tensor:
    return torch.eye(SHAPES[layer][1])[None]


def test_layers_under_moments_are_tried_at_the_widths_that_they_get():
    network = Breaking()
    task = task_of(network)
    once = measure(network, task)
    assert once.choices == task.solve().choices  # what looked better than the table broke
    again = measure(network, task, moments=all_alike)
    assert again.choices["blocks.0"].bits == 3
    assert noise_of(network, again) < 0.1 * noise_of(network, once)
    assert abs(again.bits - 3.1) <= 0.02


def test_progress_counts_up_where_layers_are_tried_again():
    network, seen = Network(), []
    measure(
        network, task_of(network), moments=all_alike, on_layer=lambda *told: seen.append(told[:2])
    )
    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


def test_a_network_that_says_otherwise_on_other_questions_gets_the_table_plan():
    """What was measured on the first questions must not make an answer to the others worse."""

    class Deceiving(Network):
        def held_out_noise(self) -> float:
            table_like = all(
                torch.equal(self.held[name], decoded) for name, decoded in self.by_table.items()
            )
            return 0.1 if table_like else 1.0

    network = Deceiving()
    task = task_of(network)
    table = task.solve()
    network.by_table = {
        name: coded(network.weights[name], choice, 0).decode()
        for name, choice in table.choices.items()
    }
    plan = measured_plan(task, table, network.weights.__getitem__, network)
    assert plan.choices == table.choices


def test_excluded_layers_are_not_touched():
    network = Network()
    plan = measure(network, task_of(network, 5.2, exclude=["blocks.3"]))
    assert plan.choices["blocks.3"].codec is None
    assert torch.equal(network.held["blocks.3"], network.weights["blocks.3"])


def test_progress_counts_up(measured):
    seen = measured[3]
    done = [told[0] for told in seen]
    assert done == sorted(done)
    assert seen[-1][0] == seen[-1][1]
    assert seen[-1][2] == 0.0


def test_progress_can_stop_it():
    class Stop(Exception):
        pass

    def stop(done: int, total: int, left: float | None) -> None:
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        measure(Network(), task_of(Network()), on_layer=stop)
