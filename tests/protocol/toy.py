"""A network named like a small UNet of Stable Diffusion, and a host that samples from it."""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfy_vq.finetune.questions import Question, recorded
from comfy_vq.finetune.student import Sites

WIDTH = 32
LAYERS = {
    "conv_in": "input_blocks.0.0",
    "first": "input_blocks.1.0.in_layers.2",
    "middle": "middle_block.1.proj_in",
    "last": "output_blocks.0.0.out_layers.3",
}
"""Attributes of the network by the names of layers; the first is not quantized."""
GROUPS = ("down 0", "middle", "up 0")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, WIDTH, 3, padding=1)
        self.first = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.middle = nn.Linear(WIDTH, 2 * WIDTH)
        self.last = nn.Conv2d(2 * WIDTH, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.silu(self.first(F.silu(self.conv_in(x))))
        return self.last(F.silu(self.middle(hidden.movedim(1, -1))).movedim(-1, 1))


class Host:
    """See ``protocol.run.Host``; a trajectory is two steps.

    Attributes:
        sampled: turn, count, and the layers exchanged by then, of each sampling.
        taught_first: first prompts of the teacher's samplings.
    """

    rows = 2
    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.teacher = Network().requires_grad_(False)
        self._student = copy.deepcopy(self.teacher)
        self._names = {name: attribute for attribute, name in LAYERS.items()}
        self.shapes = {n: tuple(layer.weight.shape) for n, layer in self._of(self.teacher).items()}
        self.sampled: list[tuple[int, int, frozenset[str]]] = []
        self.taught_first: list[int] = []
        self._exchanged: set[str] = set()

    def _of(self, network: nn.Module) -> dict[str, nn.Module]:
        return {name: getattr(network, attribute) for name, attribute in self._names.items()}

    def layers(self) -> dict[str, nn.Module]:
        return self._of(self._student)

    def read(self, layer: str) -> Tensor:
        return self._of(self.teacher)[layer].weight

    def put(self, layer: str, weight: Tensor) -> None:
        self.layers()[layer].weight.data.copy_(weight.detach())
        own = torch.equal(weight, self.read(layer))
        (self._exchanged.discard if own else self._exchanged.add)(layer)

    def sample(self, turn: int, count: int) -> None:
        self.sampled.append((turn, count, frozenset(self._exchanged)))
        self._trajectories(self._student, turn * count, count)

    def taught(self, first: int, count: int) -> list[Question]:
        self.taught_first.append(first)
        with recorded(self.teacher) as questions:
            self._trajectories(self.teacher, first, count)
        return questions

    def sites(self, coded: Collection[str]) -> Sites:
        network = copy.deepcopy(self.teacher)
        layers = self._of(network)
        places = {name: (layers[name], multiply_of(layers[name])) for name in coded}
        dense = {
            f"{name}.{leaf}": (layer, leaf)
            for name, layer in layers.items()
            for leaf in ("weight", "bias")
            if leaf == "bias" or name not in coded
        }
        return Sites(network, self.device, places, dense)

    def learning(self) -> nullcontext[None]:
        return nullcontext()

    def _trajectories(self, network: nn.Module, first: int, count: int) -> None:
        for number in range(first, first + count):
            generator = torch.Generator().manual_seed(number)
            x = torch.randn(2, 4, 8, 8, generator=generator)
            for _ in range(2):
                x = x - 0.5 * network(x)[:, :4]

    def error(self, network: nn.Module) -> float:
        """Of a network's predictions, relative to their power."""
        x = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(999))
        with torch.no_grad():
            wanted = self.teacher(x)
            return float((network(x) - wanted).square().sum() / wanted.square().sum())

    def made_of(self, weights: dict[str, Tensor], dense: dict[str, Tensor]) -> nn.Module:
        """The network with coded weights and dense parameters in the place of its own."""
        network = copy.deepcopy(self.teacher)
        layers = self._of(network)
        for name, weight in weights.items():
            layers[name].weight.data.copy_(weight.detach())
        for key, value in dense.items():
            name, _, leaf = key.rpartition(".")
            getattr(layers[name], leaf).data.copy_(value)
        return network


def multiply_of(module: nn.Module):
    return F.linear if isinstance(module, nn.Linear) else module._conv_forward
