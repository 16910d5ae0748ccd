"""What a network was asked, and what the teacher answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import VQError


@dataclass(frozen=True, eq=False)
class Question:
    """One call of a network, on the CPU.

    Attributes:
        args, kwargs: of its ``forward``: tensors, also within tuples, lists and dictionaries, and
            whatever else the host hands over.
        answer: of the network, float ``[rows, ...]``.
        plain: whether rows of several questions may be put into one call.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    answer: Tensor
    plain: bool = True

    @property
    def rows(self) -> int:
        return len(self.answer)

    @property
    def nbytes(self) -> int:
        found: list[Tensor] = []
        mapped((self.args, self.kwargs, self.answer), lambda t: found.append(t) or t)
        return sum(tensor.nbytes for tensor in found)

    def ask(self, network: Callable[..., Any], device: torch.device | str) -> Tensor:
        """The answer of a network on ``device``."""
        args, kwargs = mapped((self.args, self.kwargs), lambda t: t.to(device))
        return tensor_of(network(*args, **kwargs))


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with every tensor within it replaced; containers are copied, the rest is handed on."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(item, function) for item in value)
    if type(value) is dict:
        return {key: mapped(item, function) for key, item in value.items()}
    return value


def tensor_of(output: Any) -> Tensor:
    """The prediction in what a network returns: a tensor, or an object of diffusers that holds it."""
    output = getattr(output, "sample", output)
    if not isinstance(output, Tensor):
        raise VQError(
            f"the network answers with {type(output).__name__}, expected one tensor: models of several "
            "outputs (sound beside pictures) cannot be fine-tuned"
        )
    return output


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Question]]:
    """What ``network`` is called with while a host samples from it, in a list that grows meanwhile."""
    questions: list[Question] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Hosts sample in inference mode, whose tensors cannot be learned from.
        with torch.inference_mode(False), torch.no_grad():
            answer = _kept(tensor_of(output))
            questions.append(Question(mapped(args, _kept), mapped(kwargs, _kept), answer))

    handle = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield questions
    finally:
        handle.remove()


def joined(questions: Sequence[Question]) -> Question | None:
    """One question with the rows of several; None where they cannot be put together."""
    first = questions[0]
    if len(questions) == 1:
        return first
    if not all(question.plain for question in questions):
        return None
    try:
        args, kwargs = _joined([(q.args, q.kwargs) for q in questions], [q.rows for q in questions])
        answer = torch.cat([question.answer for question in questions])
    except (ValueError, RuntimeError):  # the second is torch's, of shapes
        return None
    return replace(first, args=args, kwargs=kwargs, answer=answer)


def _joined(values: Sequence[Any], rows: Sequence[int]) -> Any:
    """Containers alike, tensors row by row, the rest equal. Raises ValueError where that is not so."""
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        raise ValueError("of different kinds")
    if isinstance(first, Tensor):
        if any(v.ndim == 0 or len(v) != n for v, n in zip(values, rows, strict=True)):
            if all(torch.equal(value, first) for value in values):
                return first
            raise ValueError("no row for each answer")
        return torch.cat(list(values))
    if type(first) in (tuple, list):
        columns = zip(*values, strict=True)
        return type(first)(_joined(column, rows) for column in columns)
    if type(first) is dict:
        if any(value.keys() != first.keys() for value in values):
            raise ValueError("of different keys")
        return {key: _joined([value[key] for value in values], rows) for key in first}
    if any(value is not first and value != first for value in values):
        raise ValueError("of different values")
    return first


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
