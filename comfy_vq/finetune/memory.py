"""What fine-tuning takes in memory, and how to take less of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .autograd import NormsKeepCopies
from .following import can_follow
from .questions import Question
from .student import Student

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_MOMENTS = 2
_FLOAT = 4


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that learning will take, activations aside, which are the host's to know.

    The teacher is not among them: its answers are recorded before the student learns.

    Attributes:
        coded: codes, scales and codebooks, on the device.
        dense: what is not coded, in the dtype of the network.
        learning: float32 copies of what learns, their gradients, and the optimizer's moments.
        following: targets and moments of codes, where these move.
        largest: of one decoded weight with its gradient; only one is held at a time.
        questions: in main memory.
        best: copy of the best state, in main memory.
    """

    coded: int
    dense: int
    learning: int
    following: int
    largest: int
    questions: int
    best: int

    @property
    def device(self) -> int:
        return self.coded + self.dense + self.learning + self.following + self.largest

    def __str__(self) -> str:
        parts = (
            ("coded weights", self.coded),
            ("dense weights", self.dense),
            ("what learns, gradients and optimizer", self.learning),
            ("targets of codes", self.following),
            ("the largest weight, decoded, with its gradient", self.largest),
        )
        lines = [f"  {name}: {_megabytes(size)}" for name, size in parts]
        beside = f"in main memory: questions {_megabytes(self.questions)}, best state {_megabytes(self.best)}"
        return "\n".join(
            (f"on the device: {_megabytes(self.device)} and activations", *lines, beside)
        )


def plan_memory(
    student: Student, questions: Sequence[Question], itemsize: int, following: bool
) -> MemoryPlan:
    """Before learning starts.

    Args:
        itemsize: of the network's dtype.
        following: whether codes move.
    """
    weights = [learned.weight for learned in student.coded.values()]
    sets = {w.codebooks.name: w.codebooks.nbytes for w in weights if w.codebooks is not None}
    learning = sum(parameter.numel() for parameter in student.parameters())
    dense = sum(parameter.numel() for parameter in student.dense.values())
    coded = sum(weight.nbytes for weight in weights) + sum(sets.values())
    moving = sum(weight.numel for weight in weights if following and can_follow(weight))
    largest = max((weight.numel for weight in weights), default=0)
    return MemoryPlan(
        coded=coded,
        dense=dense * itemsize,
        learning=learning * _FLOAT * (2 + _MOMENTS),
        following=moving * _FLOAT * 3,
        largest=largest * (itemsize + 3 * _FLOAT),
        questions=sum(question.nbytes for question in questions),
        best=coded + learning * _FLOAT,
    )


@contextmanager
def recomputed(network: nn.Module) -> Iterator[int]:
    """Keep only what goes into each block; backward computes the inside again.

    Gives the number of blocks. Blocks are the largest parts that are no mere row of parts.
    """
    blocks = list(_blocks(network))
    for block in blocks:
        block.forward = _again(block.forward)
    try:
        yield len(blocks)
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _again(forward: Callable[..., Any]) -> Callable[..., Any]:
    def inside(*args: Any, **kwargs: Any) -> Any:
        given = {name: _own(value) for name, value in kwargs.items()}
        with NormsKeepCopies():  # here, since backward may run in another thread
            return forward(*map(_own, args), **given)

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # Hosts write into dictionaries between blocks: each block keeps them as it found them.
        args = tuple(_found(value) for value in args)
        kwargs = {name: _found(value) for name, value in kwargs.items()}
        how = {"use_reentrant": False, "preserve_rng_state": False}
        return checkpoint(inside, *args, **how, **kwargs)

    return run


def _own(value: Any) -> Any:
    """Blocks write over what they are given, and it is needed once more."""
    if isinstance(value, Tensor) and value.requires_grad:
        return value.clone()
    return _found(value)


def _found(value: Any) -> Any:
    return dict(value) if type(value) is dict else value


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if not _composed(child):
            continue
        if isinstance(child, _CONTAINERS) or _holds_rows(child):
            yield from _blocks(child)
        else:
            yield child


def _composed(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _holds_rows(module: nn.Module) -> bool:
    """Whether two or more composed parts stand in a row somewhere inside."""
    rows = (part for part in module.modules() if isinstance(part, _CONTAINERS))
    return any(sum(_composed(item) for item in row.children()) > 1 for row in rows)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
