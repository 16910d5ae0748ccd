"""One row of the compatibility table, and how it is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from host.features.graph import Absent, Graph, one, sample, start
from host.sampling import relative_l2

TOLERANCE = 1e-4
EFFECT = 1e-3

Run = Callable[[Graph], Tensor]


@dataclass(frozen=True)
class Feature:
    """Something that users do with a model.

    Attributes:
        name: as users call it.
        nodes: names of the stock nodes that do it, for the table.
        variant: the tiny model that it is tried on.
        run: the latents of a graph with the feature.
        without: those of the same graph without it; they must differ.
        refused: what the error says, as a regular expression, where it is refused.
        note: what users should know.
        slow: takes long.
    """

    name: str
    nodes: tuple[str, ...]
    variant: str
    run: Run
    without: Run = sample
    refused: str = ""
    note: str = ""
    slow: bool = False


@dataclass(frozen=True)
class Untested:
    """A row that is not run, and why."""

    name: str
    nodes: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Outcome:
    """What a feature did.

    Attributes:
        status: ``works``, ``refused``, ``absent`` (from this ComfyUI) or ``BROKEN``.
        detail: the error's message, or what is wrong.
        error: relative L2 distance from the dense model with the feature.
        effect: relative L2 distance from the VQ model without it.
    """

    status: str
    detail: str = ""
    error: float = float("nan")
    effect: float = float("nan")


def patched(node: str, /, **inputs) -> Run:
    """Sampling with a node between the model and the sampler."""
    return lambda graph: sample(graph.with_(model=one(node, model=graph.model, **inputs)))


@torch.inference_mode()  # as ComfyUI runs nodes
def check(feature: Feature) -> Outcome:
    """Run a feature on a VQ model and on the dense model of its decoded weights.

    It works if both give the same latents, the latents differ from those without the feature, and
    the VQ model is afterwards what it was before.
    """
    try:
        expected = feature.run(start(feature.variant, coded=False))
    except Absent as missing:
        return Outcome("absent", str(missing))
    graph = start(feature.variant, coded=True)
    before, held = plain(feature.variant)
    without = before if feature.without is sample else feature.without(graph)
    try:
        got = feature.run(graph)
    except VQError as error:
        matches = feature.refused and re.search(feature.refused, str(error))
        return Outcome("refused" if matches else "BROKEN", str(error))
    error = relative_l2(expected, got)
    comparable = without.shape == got.shape
    effect = relative_l2(without, got) if comparable else float("inf")
    if feature.refused:
        return Outcome("BROKEN", "was to be refused", error, effect)
    if not torch.isfinite(got).all() or not error <= TOLERANCE:
        return Outcome("BROKEN", "differs from the dense model", error, effect)
    if not effect > EFFECT:
        return Outcome("BROKEN", "has no effect", error, effect)
    after = sample(graph)
    if not torch.equal(after, before) or coded_layers(graph) != held:
        change = f"leaves the model changed, by {relative_l2(before, after):.1e}"
        return Outcome("BROKEN", change, error, effect)
    return Outcome("works", feature.note, error, effect)


@cache
def plain(variant: str) -> tuple[Tensor, int]:
    """Latents of the VQ model by itself, before anything was done to it, and its coded layers."""
    graph = start(variant, coded=True)
    # In several threads the first sampling of a process may differ in the last digits from all that
    # follow, of the dense model too.
    sample(graph)
    return sample(graph), coded_layers(graph)


def coded_layers(graph: Graph) -> int:
    """How many layers of the model hold codes."""
    layers = (m for m in graph.model.model.modules() if isinstance(m, CodedWeight))
    return sum(is_coded(layer.weight) for layer in layers)
