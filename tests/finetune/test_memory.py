"""Activations that are computed again, and what a plan of memory counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from comfy_vq.finetune.memory import plan_memory, recomputed
from comfy_vq.finetune.questions import Question
from comfy_vq.finetune.student import Student

from . import toy


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.inside = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 16))
        self.calls = 0

    def forward(self, x, options):
        self.calls += 1
        x += self.inside(self.norm(x)) * options["factor"]
        options["factor"] = 100.0  # as hosts do, between blocks
        x += self.norm(x)
        return x


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 16)
        self.rows = nn.ModuleList([nn.Sequential(Block(), Block()), nn.Sequential(Block())])

    def forward(self, x):
        x = self.first(x)
        for row in self.rows:
            for block in row:
                x = block(x, {"factor": 0.5})
        return x


def plain_gradients(network: Network, x: torch.Tensor) -> list[torch.Tensor]:
    """Of the same network without operations in place."""
    y = network.first(x)
    for row in network.rows:
        for block in row:
            y = y + block.inside(block.norm(y)) * 0.5
            y = y + block.norm(y)
    return list(torch.autograd.grad(y.square().sum(), list(network.parameters())))


def test_blocks_that_write_in_place_get_true_gradients():
    network, x = Network(), torch.randn(4, 16)
    expected = plain_gradients(network, x)
    with recomputed(network) as blocks:
        assert blocks == 3
        network(x).square().sum().backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    assert all(block.calls == 2 for row in network.rows for block in row)
    network(x)
    assert all(block.calls == 3 for row in network.rows for block in row)


def test_without_gradients_nothing_is_computed_twice():
    network = Network()
    with recomputed(network), torch.no_grad():
        network(torch.randn(4, 16))
    assert all(block.calls == 1 for row in network.rows for block in row)


@pytest.mark.parametrize("following", [False, True])
def test_a_plan_counts_what_is_held(following):
    model = toy.coded(toy.teacher())
    student = Student(model, toy.sites(model))
    question = Question((torch.zeros(2, 3),), {}, torch.zeros(2, 3))
    plan = plan_memory(student, [question] * 3, 4, following)
    stored = sum(w.nbytes for w in model.layers.values())
    assert plan.coded == stored + sum(s.nbytes for s in model.codebook_sets().values())
    sets = {w.codebooks.name: w.codebooks for w in model.layers.values() if w.codec == "additive"}
    numbers = sum(w.shape[0] for w in model.layers.values())
    numbers += sum(t.numel() for t in model.dense.values())
    numbers += sum(s.codebooks.numel() for s in sets.values())
    assert plan.learning == 16 * numbers
    moving = sum(w.numel for w in model.layers.values() if w.codec != "int8")
    assert plan.following == (12 * moving if following else 0)
    assert plan.questions == 3 * 48
    assert f"{plan.device / 1e6:.1f} MB" in str(plan)
