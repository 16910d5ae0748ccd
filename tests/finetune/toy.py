"""A network of a convolution, a norm and linear layers, its coded form, and a host of both."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfy_vq import codecs
from comfy_vq.finetune.questions import Question, recorded
from comfy_vq.finetune.student import Sites
from comfy_vq.model import VQModel

WIDTH = 64
LAYERS = {"convolution": ("trellis", 2), "inner": ("additive", 2), "outer": ("int8", 8)}


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, WIDTH, 3, padding=1)
        self.norm = nn.LayerNorm(WIDTH)
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)
        self.outer = nn.Linear(WIDTH, 8)

    def forward(self, x: Tensor, *, context: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(x).movedim(1, -1))
        hidden = F.silu(self.inner(hidden + context[:, None, None]))
        return self.outer(hidden).movedim(-1, 1)


def teacher(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network().requires_grad_(False)


def coded(network: Network, layers: dict[str, tuple[str, int]] | None = None) -> VQModel:
    """The model of a network, stored in half precision."""
    tensors = {key: tensor.half() for key, tensor in network.state_dict().items()}
    made = {
        name: codecs.encode(tensors.pop(f"{name}.weight"), bits, codec, "fast")
        for name, (codec, bits) in (layers or LAYERS).items()
    }
    return VQModel(made, tensors)


def sites(model: VQModel) -> Sites:
    network = teacher(1)
    network.load_state_dict(model.decode(torch.float32))
    places = {name: getattr(network, name) for name in model.layers}

    def multiply(module: nn.Module) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        return F.linear if isinstance(module, nn.Linear) else module._conv_forward

    held = {key: key.split(".") for key in model.dense}
    return Sites(
        network,
        torch.device("cpu"),
        {name: (module, multiply(module)) for name, module in places.items()},
        {key: (getattr(network, path), leaf) for key, (path, leaf) in held.items()},
    )


class Pupil:
    """A host whose sampler asks a fixed number of questions per trajectory, each near the last answer."""

    def __init__(self, model: VQModel, network: Network, trajectories: int = 9) -> None:
        self.model = model
        self._teacher = network
        self._seeds = range(trajectories)
        self._sites: Sites | None = None

    def sites(self) -> Sites:
        self._sites = sites(self.model)
        return self._sites

    def taught(self) -> list[list[Question]]:
        return [self._asked(self._teacher, seed) for seed in self._seeds]

    def asked(self) -> list[list[Question]]:
        assert self._sites is not None
        return [self._asked(self._sites.network, seed) for seed in self._seeds]

    def answered(self, trajectories: list[list[Question]]) -> list[list[Question]]:
        return [[self._answered(question) for question in group] for group in trajectories]

    def _asked(self, network: nn.Module, seed: int) -> list[Question]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 8, 4, 4, generator=generator)
        context = torch.randn(2, WIDTH, generator=generator)
        with torch.inference_mode(), recorded(network) as questions:
            for _ in range(3):
                x = x - 0.3 * network(x, context=context)
        return questions

    def _answered(self, question: Question) -> Question:
        answer = question.ask(self._teacher, "cpu")
        return Question(question.args, question.kwargs, answer, question.plain)
