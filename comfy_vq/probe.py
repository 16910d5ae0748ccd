"""What becomes of a network's answers when some of its weights are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .codecs import VQWeight
from .evaluation.bench import Bench, Recording

_SAMPLED = 1 << 15
"""Elements of an answer that errors are kept of, so that those of a thousand layers fit into memory."""


class Probe(Protocol):
    """A private copy of a dense network, and questions to it: inputs that its sampling met."""

    @property
    def layers(self) -> Sequence[str]:
        """Layers whose weights can be exchanged."""
        ...

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        """Put a weight in the place of a layer's own; None puts that one back."""
        ...

    def error(self) -> Tensor:
        """What has changed of the answers to the first questions, float64 ``[n]``.

        A sample of the elements, scaled such that the squares sum up to the noise: its power,
        relative to that of the answers of the dense network.
        """
        ...

    def noise(self) -> float:
        """The same noise in full, of the answers to questions that ``error`` does not ask."""
        ...


class BenchProbe:
    """A ``Probe`` of a model on two benches, which differ in their prompts or seeds.

    Args:
        model: of a host, in which weights may be exchanged.
        modules: by layer, what holds a dense parameter ``weight``.
        own: reads a layer's own weight.
        first, second: whose questions ``error`` and ``noise`` ask.
    """

    def __init__(
        self,
        model: Any,
        modules: Mapping[str, nn.Module],
        own: Callable[[str], Tensor],
        first: Bench,
        second: Bench,
    ) -> None:
        self.layers = list(modules)
        self._model, self._modules, self._own = model, modules, own
        self._first, self._second = first, second
        self._asked = first.record(model), second.record(model)
        elements = self._asked[0].noise.numel()
        generator = torch.Generator().manual_seed(0)
        self._sample = torch.randperm(elements, generator=generator)[:_SAMPLED]
        self._scale = (elements / len(self._sample) / _power(self._asked[0].noise)) ** 0.5

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        weight = self._own(layer) if weight is None else weight
        dense = weight.decode() if isinstance(weight, VQWeight) else weight
        exchange(self._modules[layer], dense)

    def error(self) -> Tensor:
        change = self._change(self._first, self._asked[0])
        return change.flatten()[self._sample].double() * self._scale

    def noise(self) -> float:
        change = self._change(self._second, self._asked[1])
        return _power(change) / _power(self._asked[1].noise)

    def _change(self, bench: Bench, asked: Recording) -> Tensor:
        return bench.predict(self._model, asked) - asked.noise


def exchange(module: nn.Module, weight: Tensor) -> None:
    """Put a dense weight in the place of a module's own, where that is held and in its dtype."""
    held = module._parameters["weight"]
    assert held is not None
    with torch.inference_mode(held.is_inference()):
        changed = weight.to(device=held.device, dtype=held.dtype).reshape(held.shape)
        module._parameters["weight"] = nn.Parameter(changed, requires_grad=False)


def _power(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
