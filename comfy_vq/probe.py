"""What becomes of a network's answers when some of its weights are exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .codecs import VQWeight
from .evaluation.bench import Bench, Recording


class Probe(Protocol):
    """A private copy of a dense network, and questions to it: inputs that its sampling met."""

    @property
    def layers(self) -> Sequence[str]:
        """Layers whose weights can be exchanged."""
        ...

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        """Put a weight in the place of a layer's own; None puts that one back."""
        ...

    def noise(self) -> float:
        """Power of what has changed of the answers, relative to that of the dense network's answers."""
        ...

    def held_out_noise(self) -> float:
        """The same of other questions, for what was chosen by the answers to the first."""
        ...


class BenchProbe:
    """A ``Probe`` of a model on two benches, which differ in their prompts or seeds.

    Args:
        model: of a host, in which weights may be exchanged.
        modules: by layer, what holds a dense parameter ``weight``.
        own: reads a layer's own weight.
        first, second: whose questions ``noise`` and ``held_out_noise`` ask.
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

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        weight = self._own(layer) if weight is None else weight
        dense = weight.decode() if isinstance(weight, VQWeight) else weight
        exchange(self._modules[layer], dense)

    def noise(self) -> float:
        return self._noise(self._first, self._asked[0])

    def held_out_noise(self) -> float:
        return self._noise(self._second, self._asked[1])

    def _noise(self, bench: Bench, asked: Recording) -> float:
        change = bench.predict(self._model, asked) - asked.noise
        return _power(change) / _power(asked.noise)


def exchange(module: nn.Module, weight: Tensor) -> None:
    """Put a dense weight in the place of a module's own, where that is held and in its dtype."""
    held = module._parameters["weight"]
    assert held is not None
    with torch.inference_mode(held.is_inference()):
        changed = weight.to(device=held.device, dtype=held.dtype).reshape(held.shape)
        module._parameters["weight"] = nn.Parameter(changed, requires_grad=False)


def _power(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
