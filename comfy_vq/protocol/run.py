"""VQDM from beginning to end: listen, code group by group, fine-tune."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checkpoint import write_dense
from ..estimate import duration
from ..evaluation.bench import Size
from ..finetune.questions import Question
from ..finetune.student import Sites
from .encode import Encoding, encode
from .ledger import Ledger
from .moments import Collector, sums_bytes
from .selection import BlockGroup, block_groups
from .tuning import Student, Tuning, tune
from .weight import VALUE_BITS, SummedWeight, tensors_of, weights_in

Say = Callable[[str], object]


class Host(Protocol):
    """What VQDM asks of a host: a network of its own, and to sample with it.

    Prompts of a short list come again, with other seeds.
    """

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the weights of all layers, by original checkpoint key without prefix and ``.weight``."""
        ...

    @property
    def device(self) -> torch.device: ...

    @property
    def rows(self) -> int:
        """Of the network's answer in a step: 2 with guidance, else 1."""
        ...

    def layers(self) -> Mapping[str, nn.Module]:
        """The modules of the network that is sampled from, by the same names."""
        ...

    def read(self, layer: str) -> Tensor:
        """A layer's own weight."""
        ...

    def put(self, layer: str, weight: Tensor) -> None:
        """Exchange a layer's weight in that network."""
        ...

    def sample(self, turn: int, count: int) -> None:
        """Sample the first prompts with the network as it is now, in each turn with other seeds."""
        ...

    def taught(self, first: int, count: int) -> list[Question]:
        """What the original network is asked and answers while it samples so many prompts."""
        ...

    def sites(self, coded: Collection[str]) -> Sites:
        """Another network of the original weights, in float32, that can learn.

        Args:
            coded: layers whose weights are none of the dense parameters.
        """
        ...

    def learning(self) -> AbstractContextManager[None]:
        """What the host needs around learning."""
        ...


@dataclass(frozen=True)
class Schedule:
    """All numbers of a run.

    Attributes:
        count: prompts sampled before each group.
        seed: of everything but the sampler's noise.
    """

    encoding: Encoding
    tuning: Tuning
    count: int = 256
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Result:
    """What VQDM makes of a model.

    Attributes:
        weights: of the coded layers.
        dense: parameters that fine-tuning has changed, by key.
        seconds: that all of it took.
    """

    weights: Mapping[str, SummedWeight]
    dense: Mapping[str, Tensor]
    seconds: float

    def size(self, numel: int) -> Size:
        """Of a model of so many weights: everything that is not coded is in half precision."""
        coded = sum(math.prod(weight.shape) for weight in self.weights.values())
        bits = sum(weight.bits for weight in self.weights.values()) + VALUE_BITS * (numel - coded)
        return Size(-(-bits // 8), numel)


def needs(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What listening takes, in a line."""
    sizes = {
        group.name: sums_bytes({name: shapes[name] for name in group.layers})
        for group in block_groups(shapes)
    }
    largest = max(sizes, key=lambda name: sizes[name])
    return (
        f"second moments in float64 take up to {sizes[largest] / 1e9:.2f} GB (group {largest}): on the "
        "graphics card if half of its free memory suffices, else 2 GiB of main memory and a temporary file"
    )


def run(host: Host, how: Schedule, ledger: Ledger, label: str, say: Say) -> Result:
    """Quantize and fine-tune; parts that the ledger knows are read instead of done again.

    Args:
        label: tells this run's parts from those of others in the same ledger.

    Raises:
        VQError: see ``block_groups``, ``encode`` and ``Collector``.
    """
    (ledger.folder / label).mkdir(exist_ok=True)
    groups = block_groups(host.shapes)
    coded = {group.name: f"{label} {group.name}" for group in groups}
    learned = [f"{label} epoch {number + 1}" for number in range(how.tuning.epochs)]
    weights = _coded(host, how, ledger, label, groups, coded, say)
    dense: dict[str, Tensor] = {}
    if learned:
        weights, dense = _tuned(host, how, ledger, label, learned, weights, say)
    return Result(weights, dense, ledger.seconds(*coded.values(), *learned))


def _coded(
    host: Host,
    how: Schedule,
    ledger: Ledger,
    label: str,
    groups: Sequence[BlockGroup],
    parts: Mapping[str, str],
    say: Say,
) -> dict[str, SummedWeight]:
    """Group after group; the parts of the ledger are by group."""
    begin = not all(ledger.done(part) for part in parts.values())
    if begin:  # with the network as it was, whatever was exchanged in it before
        for name in (name for group in groups for name in group.layers):
            host.put(name, host.read(name))
    weights: dict[str, SummedWeight] = {}
    for number, group in enumerate(groups):
        part = parts[group.name]
        path = ledger.folder / label / f"{group.name.replace(' ', '-')}.safetensors"
        if not ledger.done(part):
            with ledger.timed(part):
                write_dense(path, tensors_of(_group(host, group, how, number, say)))
            say(f"{group.name}: done in {duration(ledger.seconds(part))}")
        found = weights_in(load_file(path), {n: host.shapes[n] for n in group.layers})
        weights |= found
        if begin:
            for name, weight in found.items():
                host.put(name, weight.dense())
    return weights


def _tuned(
    host: Host,
    how: Schedule,
    ledger: Ledger,
    label: str,
    parts: Sequence[str],
    weights: Mapping[str, SummedWeight],
    say: Say,
) -> tuple[dict[str, SummedWeight], dict[str, Tensor]]:
    """Epoch after epoch, each from what the one before has left: as stored, and the dense parameters."""
    paths = [
        ledger.folder / label / f"epoch-{number + 1}.safetensors" for number in range(len(parts))
    ]
    student = None
    for number, (part, path) in enumerate(zip(parts, paths, strict=True)):
        if ledger.done(part):
            continue
        with ledger.timed(part), host.learning():
            if student is None:
                student = Student(host.sites(weights), weights)
                if number:
                    student.restore(load_file(paths[number - 1]))
            _epoch(host, student, how, number, say)
            write_dense(path, {name: held.detach() for name, held in student.state().items()})
        if number:
            paths[number - 1].unlink()
        say(f"epoch {number + 1}: done in {duration(ledger.seconds(part))}")
    state = load_file(paths[-1])
    tuned = {
        name: replace(
            weight, codebooks=state[f"codebooks.{name}"], scales=state[f"scales.{name}"]
        ).stored()
        for name, weight in weights.items()
    }
    marked = {key: held for key, held in state.items() if key.startswith("dense.")}
    return tuned, {key.removeprefix("dense."): held.half() for key, held in marked.items()}


def _group(
    host: Host, group: BlockGroup, how: Schedule, number: int, say: Say
) -> dict[str, SummedWeight]:
    """Code the layers of a group for what goes into them while the earlier ones are coded already."""
    shapes = {name: host.shapes[name] for name in group.layers}
    layers = host.layers()
    collector = Collector({name: layers[name] for name in group.layers}, shapes, host.device)
    say(f"{group.name}: listening to {len(shapes)} layers, {how.count} prompts")
    with collector.listening():
        host.sample(number, how.count)
    found, errors, rounds = {}, [], []
    for place, name in enumerate(group.layers):
        generator = torch.Generator().manual_seed(how.seed + 1000 * number + place)
        weight, moments = host.read(name).to(host.device), collector.mean(name).to(host.device)
        coded = encode(weight, moments, how.encoding, generator)
        say(f"  {name} {list(weight.shape)}: {_decibel(coded.error)} after {coded.rounds} rounds")
        found[name] = coded.weight
        errors.append(coded.error)
        rounds.append(coded.rounds)
    say(
        f"{group.name}: median error of the layers' outputs {_decibel(statistics.median(errors))}, "
        f"{statistics.mean(rounds):.1f} rounds of Adam and beam search on average"
    )
    return found


def _epoch(host: Host, student: Student, how: Schedule, epoch: int, say: Say) -> None:
    questions = host.taught(epoch * how.tuning.count, how.tuning.count)
    size = sum(question.nbytes for question in questions)
    say(f"epoch {epoch + 1}: {len(questions)} questions of the teacher, {size / 1e6:.1f} MB")
    generator = torch.Generator().manual_seed(how.seed + epoch)
    error = tune(student, questions, how.tuning, host.rows, generator)
    say(f"epoch {epoch + 1}: error of the predictions {_decibel(error)} on the way")


def _decibel(error: float) -> str:
    return f"{10 * math.log10(max(error, 1e-30)):.1f} dB"
