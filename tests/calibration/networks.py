"""A small network with layers of every kind, and what it is asked."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comfy_vq.calibration import Calibration, Collector


class Network(nn.Module):
    """Queries, keys and values of one tensor, convolutions, and a layer that is used at times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.circular = nn.Conv2d(16, 16, 3, padding=2, dilation=2, padding_mode="circular")
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.sometimes = nn.Linear(16, 16)
        self.never = nn.Linear(16, 24)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.circular(self.conv(x)).flatten(2).transpose(1, 2)
        context = h if context is None else context
        y = self.q(h) + (self.k(context) * self.v(context)).mean(1, keepdim=True)
        return self.sometimes(y) if len(x) > 1 else y


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(layer.weight.shape) for name, layer in net.named_children()}


def question(seed: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 8, 6, 6, generator=generator)


def collector(net: nn.Module, start: Calibration | None = None, **options: int) -> Collector:
    return Collector(dict(net.named_children()), shapes(net), start, **options)


def calibrated(
    net: nn.Module, *questions: Tensor, start: Calibration | None = None, **options: int
) -> Calibration:
    """After one picture for each question."""
    found = collector(net, start, **options)
    with found.listening():
        for asked in questions:
            net(asked)
    return found.result(len(questions))


def same(one: Calibration, other: Calibration) -> bool:
    """To the last bit."""
    return (
        one.shapes == other.shapes
        and one.pictures == other.pictures
        and one.moments.keys() == other.moments.keys()
        and all(
            torch.equal(found.sums, other.moments[name].sums)
            and found.count == other.moments[name].count
            for name, found in one.moments.items()
        )
    )
