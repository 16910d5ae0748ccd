"""A host's network whose coded weights, norms, biases and dense weights learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..codecs import Additive, VQWeight
from ..compute import Multiply
from ..errors import VQError
from ..model import VQModel
from .learned import LearnedWeight
from .learned_set import LearnedSet

Parameters = dict[str, Tensor]
"""By name; see ``Student.state``."""


@dataclass(frozen=True, eq=False)
class Sites:
    """Where a host's network holds what a VQ model is made of.

    Attributes:
        network: called with what a ``Question`` holds.
        device: of its inputs.
        coded: by layer name: the module, and its function of input, dense weight and bias.
        dense: by key: the module and the name of the parameter in it, for those that can learn.
    """

    network: nn.Module
    device: torch.device
    coded: Mapping[str, tuple[nn.Module, Multiply]]
    dense: Mapping[str, tuple[nn.Module, str]]


class Student:
    """What learns of a model, beside the network that computes with it.

    The network always holds what would be stored now, in its own dtypes: what is measured is what
    is saved. Learning goes on in float32 copies.

    Args:
        model: is not changed.
        sites: where the network of this model holds it; see ``learning``.
        codebooks: whether sets of additive codes learn; tables of a trellis never do.

    Raises:
        VQError: a coded layer has no place in the network.
    """

    def __init__(self, model: VQModel, sites: Sites, codebooks: bool = True) -> None:
        missing = sorted(model.layers.keys() - sites.coded.keys())
        if missing:
            raise VQError(
                f"layer {missing[0]}: found in the model ({len(missing)} such), expected in the network as "
                "well; quantize the model from within this host"
            )
        self._model = model
        self._sites = sites
        additive = (w.codebooks for w in model.layers.values() if w.codec == Additive.name)
        found = {shared.name: shared for shared in additive if codebooks and shared is not None}
        self.sets = {name: LearnedSet(shared.to(sites.device)) for name, shared in found.items()}
        self.coded = {
            name: LearnedWeight(weight.to(sites.device), self.sets.get(_set_of(weight)))
            for name, weight in model.layers.items()
        }
        self._held: dict[str, nn.Parameter] = {}
        self.dense: dict[str, nn.Parameter] = {}
        for key, (module, name) in sites.dense.items():
            held = module._parameters[name]
            stored = model.dense.get(key)
            if held is None or stored is None or not stored.is_floating_point():
                continue
            if stored.shape == held.shape and stored.dtype.itemsize > 1:
                self.dense[key] = nn.Parameter(stored.to(sites.device, torch.float32, copy=True))
                value = stored.to(sites.device, held.dtype, copy=True)
                self._held[key] = nn.Parameter(value)

    @property
    def device(self) -> torch.device:
        return self._sites.device

    @property
    def network(self) -> nn.Module:
        return self._sites.network

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The network computes with what learns, and lets gradients through, until this ends."""
        before = {key: self._place(key) for key in self._held}
        try:
            for key, parameter in self._held.items():
                module, name = self._sites.dense[key]
                module._parameters[name] = parameter
            for name, learned in self.coded.items():
                module, multiply = self._sites.coded[name]
                module.forward = _forward(module, multiply, learned)
            yield
        finally:
            for key, parameter in before.items():
                module, name = self._sites.dense[key]
                module._parameters[name] = parameter
            for name in self.coded:
                self._sites.coded[name][0].__dict__.pop("forward", None)

    def collect(self, scale: float = 1.0) -> bool:
        """Hand the network's gradients, divided by ``scale``, to what learns.

        Returns:
            Whether all of them are finite.
        """
        for key, held in self._held.items():
            if held.grad is not None:
                self.dense[key].grad = held.grad.float()
                held.grad = None
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        gradients += [w.gradient for w in self.coded.values() if w.gradient is not None]
        for gradient in gradients:
            gradient.div_(scale)
        return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Float32, factors of row scales first."""
        for learned in self.coded.values():
            yield learned.factors
        for learned_set in self.sets.values():
            yield learned_set.entries
        yield from self.dense.values()

    @torch.no_grad()
    def settle(self) -> None:
        """Give the network what would be stored, after the parameters have changed."""
        for learned in (*self.coded.values(), *self.sets.values()):
            learned.settle()
        for key, parameter in self.dense.items():
            dtype = self._model.dense[key].dtype
            largest = torch.finfo(dtype).max
            self._held[key].copy_(parameter.clamp(-largest, largest).to(dtype))

    def model(self) -> VQModel:
        """What is learned by now, on the CPU; of the same size as what it started from."""
        known = self._model.codebook_sets()
        sets = {name: learned_set.finished(known) for name, learned_set in self.sets.items()}
        layers = {}
        for name, learned in self.coded.items():
            begun = self._model.layers[name]
            own = {n: t.to("cpu", copy=True) for n, t in learned.weight.tensors.items()}
            layers[name] = replace(
                begun, tensors=own, codebooks=sets.get(_set_of(begun), begun.codebooks)
            )
        learned = {
            key: held.detach().to("cpu", self._model.dense[key].dtype, copy=True)
            for key, held in self._held.items()
        }
        return replace(self._model, layers=layers, dense={**self._model.dense, **learned})

    def state(self) -> Parameters:
        """All that has been learned, for a checkpoint; the tensors are those in use."""
        state = {f"dense.{key}": value.detach() for key, value in self.dense.items()}
        for name, learned in self.coded.items():
            state[f"factors.{name}"] = learned.factors.detach()
            state[f"codes.{name}"] = learned.codes
        for name, learned_set in self.sets.items():
            state[f"sets.{name}"] = learned_set.entries.detach()
        return state

    def snapshot(self) -> Parameters:
        """A copy of the state, on the CPU."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self.state().items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a ``state``, which is copied."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self.settle()

    def _place(self, key: str) -> nn.Parameter | None:
        module, name = self._sites.dense[key]
        return module._parameters[name]


def _set_of(weight: VQWeight) -> str:
    """Name of the set that a weight refers to; empty where there is none."""
    return "" if weight.codebooks is None else weight.codebooks.name


def _forward(
    module: nn.Module, multiply: Multiply, learned: LearnedWeight
) -> Callable[[Tensor], Tensor]:
    def forward(input: Tensor) -> Tensor:
        bias = module._parameters["bias"]
        with learned.dense(input.dtype) as weight:
            return multiply(input, weight, None if bias is None else bias.to(input.dtype))

    return forward
