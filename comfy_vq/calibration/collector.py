"""Collecting moments while a network runs."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .accumulators import LIMIT, Accumulators
from .inputs import is_convolution, products
from .moments import Calibration, Moments, shared

_SAMPLED = 64
"""Values by which a tensor is known again that was changed in place."""


class Collector:
    """Sums up what goes into layers.

    Layers that are given one and the same tensor (queries, keys and values; the context of all
    blocks) share their sums, for as long as that holds in every call.

    Args:
        layers: what to listen to, by the names that ``Calibration`` has.
        shapes: of their weights.
        start: a calibration to continue, which is not changed. With it the result is the same to the
            last bit as if both had been collected at once.
        limit: bytes of main memory for sums; what exceeds it lies in a temporary file.

    Raises:
        VQError: the calibration to continue is of another model.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        shapes: Mapping[str, tuple[int, ...]],
        start: Calibration | None = None,
        limit: int = LIMIT,
    ) -> None:
        self._layers = {n: m for n, m in layers.items() if getattr(m, "groups", 1) == 1}
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._memory = Accumulators(limit)
        self._groups: dict[str, _Group] = {}
        self._pictures = 0
        if start is not None:
            start.continues(self._shapes)
            self._pictures = start.pictures
            for found, names in shared(start.moments):
                group = _Group(names, self._memory.copy(found.sums), found.count)
                self._groups |= dict.fromkeys(names, group)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, whatever goes through the layers counts.

        After an error in it this collector is of no more use.
        """
        handles = []
        try:
            for name, layer in self._layers.items():
                hook = self._hook(name)
                handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
        for group in dict.fromkeys(self._groups.values()):
            self._settle(group)

    def result(self, pictures: int) -> Calibration:
        """What was collected.

        Args:
            pictures: that were sampled since the start.

        Raises:
            VQError: an input was not finite; names the layer.
        """
        made = {
            group: Moments(group.sums, group.count)
            for group in self._groups.values()
            if group.sums is not None
        }
        moments = {
            name: made[group] for name, group in sorted(self._groups.items()) if group in made
        }
        found = Calibration(self._shapes, moments, self._pictures + pictures)
        found.refuse_not_finite()
        return found

    def _hook(self, name: str) -> Any:
        def see(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs.get("input")
            if isinstance(x, Tensor) and x.is_floating_point():
                with torch.no_grad():
                    self._see(name, layer, x)

        return see

    def _see(self, name: str, layer: nn.Module, x: Tensor) -> None:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = self._group_of(name, layer, x)
            if len(group.names) > 1:  # the others have added it already
                return
        if name in group.waiting:
            self._settle(group)
            group = self._groups[name]
        group.waiting[name] = (layer, x)
        if len(group.waiting) == len(group.names):
            self._settle(group)

    def _group_of(self, name: str, layer: nn.Module, x: Tensor) -> _Group:
        """The group whose layers were called once, with this tensor, or else a new one."""
        # convolutions of one tensor see it through different windows
        groups = () if is_convolution(layer) else dict.fromkeys(self._groups.values())
        for group in groups:
            if group.first is not None and group.first() is x and group.mark.equal(_mark(x)):
                group.names.append(name)
                return group
        return _Group([name], None, 0)

    def _settle(self, group: _Group) -> None:
        """Add what the layers of a group are waiting with. Those that were given different tensors,
        or none, have nothing more to do with each other, and go on from a copy of the sums."""
        tensors = {name: group.waiting.get(name) for name in group.names}
        group.waiting = {}
        parts: dict[int, list[str]] = {}
        for name, waiting in tensors.items():
            parts.setdefault(id(None if waiting is None else waiting[1]), []).append(name)
        if len(parts) > 1:
            for names in list(parts.values())[1:]:
                sums = None if group.sums is None else self._memory.copy(group.sums)
                self._groups |= dict.fromkeys(names, _Group(names, sums, group.count))
            group.names = next(iter(parts.values()))
        for names in parts.values():
            waiting = tensors[names[0]]
            if waiting is not None:
                self._add(self._groups[names[0]], *waiting)

    def _add(self, group: _Group, layer: nn.Module, x: Tensor) -> None:
        sums, count = products(layer, x)
        group.first = None
        if group.sums is None:
            group.sums = self._memory.zeros(tuple(sums.shape))
            if not is_convolution(layer):
                group.first, group.mark = weakref.ref(x), _mark(x)
        group.sums += sums.to(group.sums.device)
        group.count += count


class _Group:
    """Layers that have had the same input in every call.

    Attributes:
        names: of the layers.
        sums, count: see ``Moments``; None before the first call.
        waiting: layers that were called since the sums were added to, with what.
        first, mark: the tensor of the first call, while that is the only one.
    """

    def __init__(self, names: list[str], sums: Tensor | None, count: int) -> None:
        self.names = list(names)
        self.sums = sums
        self.count = count
        self.waiting: dict[str, tuple[nn.Module, Tensor]] = {}
        self.first: weakref.ref[Tensor] | None = None
        self.mark = torch.empty(0)


def _mark(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLED)].clone()
