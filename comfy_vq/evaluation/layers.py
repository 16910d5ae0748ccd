"""What quantization does to each layer's output, on inputs that the reference gives it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .bench import Bench, Recording

# Hosts have layers of their own for weights in special formats, which are no subclasses.
_NAME = re.compile("Linear|Conv")
_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Linear layers and convolutions by name, in the order of the network."""
    return {
        name: module
        for name, module in network.named_modules()
        if not any(module.children())
        and (isinstance(module, _TYPES) or _NAME.search(type(module).__name__))
    }


@torch.no_grad()
def layer_errors(
    bench: Bench, reference: Any, candidate: Any, recording: Recording
) -> dict[str, float]:
    """NMSE of each layer's output, ``sum |y_cand - y_ref|^2 / sum |y_ref|^2`` over all steps.

    The reference runs on each recorded step. What goes into a layer also goes into the
    candidate's layer of the same name, so that errors of layers before it do not count.

    Args:
        reference, candidate: models of the bench, both loaded.

    Returns:
        By name, in the order in which the reference uses them. Layers that the candidate lacks, that do not run, or
        whose output is zero are left out; it is empty if both models share one network.
    """
    network, other = bench.network(reference), bench.network(candidate)
    if network is other:
        return {}
    inputs = _input_kinds(other, lambda: bench.call(candidate, recording, 0))
    theirs = dict(other.named_modules())
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    comparing = False  # a module that both networks share must not be compared within itself

    def compare(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal comparing
        if comparing or not isinstance(output, Tensor):
            return
        comparing = True
        try:
            place = inputs[name]
            found = theirs[name](
                *[_to(value, place) for value in args],
                **{key: _to(value, place) for key, value in kwargs.items()},
            )
        finally:
            comparing = False
        expected = output.float()
        noise[name] += _power(found.to(expected) - expected)
        signal[name] += _power(expected)

    compared = {name: module for name, module in layers_of(network).items() if name in inputs}
    with _hooks(compared, compare):
        for step in range(len(recording.timesteps)):
            bench.call(reference, recording, step)
    return {name: noise[name] / signal[name] for name in noise if signal[name] > 0}


_Seen = Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]


@contextmanager
def _hooks(modules: Mapping[str, nn.Module], seen: _Seen) -> Iterator[None]:
    """Calls ``seen(name, args, kwargs, output)`` after each forward of the modules."""
    handles = []

    def hook_for(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs, output: seen(name, args, kwargs, output)

    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook_for(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_kinds(network: nn.Module, run: Callable[[], None]) -> dict[str, Tensor]:
    """An empty tensor of the dtype and on the device that each layer's input has in a forward.

    A host may compute with the candidate in another precision or elsewhere than with the
    reference.
    """
    kinds: dict[str, Tensor] = {}

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                kinds.setdefault(name, value.new_empty(0))

    with _hooks(layers_of(network), note):
        run()
    return kinds


def _to(value: Any, like: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.to(like) if value.is_floating_point() else value.to(like.device)
    return value


def _power(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) ** 2
