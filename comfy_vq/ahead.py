"""Decode the layers of a block together, before the first of them multiplies.

A short decode costs a graphics card a few microseconds, and the processor as many to launch it. A
model runs its layers in the same order in every pass, so that the order of the first pass says
which weights may share a launch: as many successive ones as the scratch buffer holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import kernels
from .codecs import VQWeight
from .codecs.weight import from_matrix, matrix_shape

_ALIGNMENT = 256  # bytes, of what kernels write to

_TRIES = 100
"""How often an order is learned; a model whose order keeps changing decodes layer by layer."""


class Slot:
    """A layer's place in the order. Made by ``Ahead.slot``."""

    def __init__(self, ahead: Ahead) -> None:
        self.ahead = ahead
        self.reset()

    def reset(self) -> None:
        self.group: Group | None = None
        self.held: object = None
        self.weight: VQWeight | None = None
        self.dense: Tensor | None = None
        self.kind: Kind | None = None

    def decoded(
        self, held: Tensor, weight: Callable[[], VQWeight], dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """The dense weight in ``dtype``, until another layer asks; None to decode it by oneself.

        Args:
            held: the coded weight as the layer holds it; what was decoded of another is not valid.
            weight: makes of it what can be decoded.
            dtype, device: of the layer's input.
        """
        group = self.group
        if group is None:
            if held.device == device:  # and is not brought from elsewhere each time it is used
                self.ahead.note(self, held, weight, (dtype, device))
            return None
        if held is not self.held or self.kind != (dtype, device):
            self.ahead.reset()
            return None
        if group.is_decoded() or (group.first is self and group.decode()):
            return self.dense
        return None


Kind = tuple[torch.dtype, torch.device]
"""Of a layer's input, and so of its decoded weight."""


@dataclass(eq=False)
class Group:
    """Layers whose weights are decoded together, or kept decoded, or neither.

    Attributes:
        ahead: whose group it is.
        kept: whether the weights have memory of their own and are decoded for good.
        first: the layer before which all are decoded.
        buffer: where the decoded weights lie until then.
        launches: decode them.
    """

    ahead: Ahead
    kept: bool = False
    first: Slot | None = None
    buffer: kernels.scratch.Buffer | None = None
    launches: Sequence[Callable[[], object]] = ()

    def is_decoded(self) -> bool:
        buffer = self.buffer
        if buffer is None:
            return self.kept
        return buffer.owner is self and kernels.scratch.current(buffer.memory.device) is buffer

    def decode(self) -> bool:
        """Whether it could; not on another stream, such as one on which a graph is captured."""
        buffer = self.buffer
        if buffer is None:
            return False
        found = kernels.scratch.current(buffer.memory.device)
        if found is not buffer:
            if found is not None:  # replaced by a larger one
                self.ahead.reset()
            return False
        buffer.owner = None
        for launch in self.launches:
            launch()
        buffer.owner = self
        return True


@dataclass(eq=False)
class Ahead:
    """The order in which the layers of one model run, learned from a pass through it.

    Attributes:
        spare: bytes of memory for weights that stay decoded, small ones first.
    """

    spare: int = 0
    _slots: list[Slot] = field(default_factory=list)
    _order: list[Slot] = field(default_factory=list)
    _tries: int = _TRIES

    def slot(self) -> Slot:
        """For a further layer."""
        slot = Slot(self)
        self._slots.append(slot)
        return slot

    def reset(self) -> None:
        """Forget the order and all that is decoded; to be called when weights are moved."""
        self._order.clear()
        for slot in self._slots:
            slot.reset()

    def note(self, slot: Slot, held: Tensor, weight: Callable[[], VQWeight], kind: Kind) -> None:
        """A layer runs that has no group. If it was noted before, the first pass is over."""
        if slot.weight is None:
            slot.held, slot.weight, slot.kind = held, weight(), kind
            self._order.append(slot)
        elif self._tries and not kernels.scratch.is_capturing(kind[1]):
            self._tries -= 1
            # What is made here outlives the caller's inference mode.
            with torch.inference_mode(False), torch.no_grad():
                self._arrange()

    def _arrange(self) -> None:
        order, alone = self._order, Group(self)
        self._order = []
        for slot in order:
            slot.group = alone
        keep = self._keep(order)
        for members in _fitting(slot for slot in order if slot not in keep):
            self._gather(members)

    def _keep(self, order: list[Slot]) -> set[Slot]:
        """Decode for good what fits into the spare memory."""
        spare, keep, group = self.spare, set(), Group(self, kept=True)
        for slot in sorted(order, key=_nbytes):
            spare -= _nbytes(slot)
            if spare < 0 or slot.weight is None or slot.kind is None:
                break
            try:
                slot.dense = slot.weight.decode(slot.kind[0])
            except torch.OutOfMemoryError:
                break  # less was spare than the user believed
            slot.group = group
            keep.add(slot)
        return keep

    def _gather(self, members: list[Slot]) -> None:
        """Make a group of successive layers of one kind, if their device decodes in batches."""
        kind = members[0].kind
        if kind is None or not kernels.decodes_in_batches(*kind):
            return
        buffer = kernels.scratch.reserve(kernels.scratch.LIMIT, kind[1])
        if buffer is None:
            return
        group, items, at = Group(self, first=members[0], buffer=buffer), [], 0
        for slot in members:
            assert slot.weight is not None
            rows, columns = matrix_shape(slot.weight.shape)
            nbytes = rows * columns * kind[0].itemsize
            out = buffer.memory[at : at + nbytes].view(kind[0]).view(rows, columns)
            slot.group, slot.dense = group, from_matrix(out, slot.weight.shape)
            items.append((slot.weight.coded(), out))
            at += _nbytes(slot)
        buffer.owner = None
        group.launches = kernels.batches(items)


def _fitting(order: Iterable[Slot]) -> list[list[Slot]]:
    """Successive layers of one kind that the buffer holds together."""
    found: list[list[Slot]] = []
    room, kind = 0, None
    for slot in order:
        nbytes = _nbytes(slot)
        if nbytes > kernels.scratch.LIMIT:
            room = 0
            continue
        if nbytes > room or slot.kind != kind:
            found.append([])
            room, kind = kernels.scratch.LIMIT, slot.kind
        found[-1].append(slot)
        room -= nbytes
    return found


def _nbytes(slot: Slot) -> int:
    if slot.weight is None or slot.kind is None:
        return 0
    size = slot.weight.numel * slot.kind[0].itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT
