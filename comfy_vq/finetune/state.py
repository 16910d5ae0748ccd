"""Fine-tuning on disk, so that it goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoint.refusal import refuse
from ..checkpoint.serialize import Stored, write_file
from .student import Parameters
from .training import History, Point, Training

_VERSION = 1
_KEY = "vq.finetune"


def save_state(
    path: Path, training: Training, about: str, round: int, earlier: Sequence[Point]
) -> None:
    """Write all that is needed to go on; an earlier file is replaced as a whole.

    Args:
        about: what is being done, such as files and prompts; ``open_state`` refuses another.
        round: the number of the training, and the evaluations of those before it.
    """
    tensors = {f"now.{name}": tensor for name, tensor in training.student.state().items()}
    tensors |= {f"first.{name}": tensor for name, tensor in training.first.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in training.best.items()}
    for name, follower in training.followers.items():
        tensors |= {f"codes.{piece}.{name}": t for piece, t in follower.state().items()}
    for index, moments in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{piece}": t for piece, t in moments.items()}
    record = {
        "version": _VERSION,
        "about": _digest(about),
        "round": round,
        "settings": asdict(training.settings),
        "history": asdict(training.history),
        "earlier": [asdict(point) for point in earlier],
    }
    stored = {name: Stored.of(tensor) for name, tensor in tensors.items()}
    write_file(path, stored, {_KEY: json.dumps(record)})


@dataclass(frozen=True, eq=False)
class SavedState:
    """What ``save_state`` wrote.

    Attributes:
        round, earlier: see there.
        first: state of the student when this round began.
    """

    path: Path
    round: int
    earlier: tuple[Point, ...]
    first: Parameters
    _record: dict[str, Any]
    _tensors: dict[str, Tensor]

    def put_into(self, training: Training) -> None:
        """Make a training that has not begun go on from here, as if it had never been stopped.

        Raises:
            VQError: it has other settings.
        """
        settings = asdict(training.settings)
        found = self._record["settings"]
        for name, value in settings.items():
            if found.get(name) != value:
                _refuse(self.path, name, repr(found.get(name)), repr(value))
        history = self._record["history"]
        points = [Point(**point) for point in history["points"]]
        training.history = History(**{**history, "points": points})
        training.student.restore(_under("now.", self._tensors))
        training.best = _under("best.", self._tensors)
        for name, follower in training.followers.items():
            for piece, tensor in follower.state().items():
                tensor.copy_(self._tensors[f"codes.{piece}.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", self._tensors).items():
            index, _, piece = name.partition(".")
            moments.setdefault(int(index), {})[piece] = tensor
        groups = training.optimizer.state_dict()["param_groups"]
        training.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def open_state(path: Path, about: str) -> SavedState:
    """Read a state. Raises VQError if that cannot be, or it is one of something else."""
    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        _refuse(path, "file", f"one that cannot be read ({error})", "the state of a fine-tuning")
    if record.get("version") != _VERSION:
        _refuse(path, "version", repr(record.get("version")), repr(_VERSION))
    if record["about"] != _digest(about):
        _refuse(path, "files and prompts", "others", "those that it was begun with")
    earlier = tuple(Point(**point) for point in record["earlier"])
    return SavedState(path, record["round"], earlier, _under("first.", tensors), record, tensors)


def _refuse(path: Path, field: str, found: str, expected: str) -> Any:
    advice = "go on with what it was begun with, or remove the file to begin anew"
    refuse(path, field, found, expected, advice)


def _digest(about: str) -> str:
    return hashlib.sha256(about.encode()).hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> Parameters:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
