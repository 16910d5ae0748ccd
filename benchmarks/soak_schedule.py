"""What the soak asks of the server, and in which order: all of it follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

from benchmarks.soak_graphs import (
    LOAD,
    QUANTIZER,
    SAMPLER,
    Graph,
    Loras,
    Picture,
    add,
    file_name,
    model_into,
    picture_graph,
    quantize_into,
)


@dataclass(frozen=True)
class Interruption:
    """A prompt that is stopped within ``node``, the sampler or the quantizer."""

    node: str
    picture: Picture

    def __str__(self) -> str:
        return f"{self.node} interrupted, {self.picture}"

    def graph(self, nonce: int) -> Graph:
        """Long enough not to end by itself."""
        if self.node == SAMPLER:
            return picture_graph(self.picture, nonce, steps=2000)
        graph = picture_graph(replace(self.picture, family="sd15", source="quantized"), nonce)
        # Nothing of it may come out of a cache: no two ask for the same number of bits.
        slow = {"effort": "balanced", "cache": False, "bits": f"{3 + nonce / 10000}"}
        graph[QUANTIZER]["inputs"] |= slow
        return graph


@dataclass(frozen=True)
class Fault:
    """A prompt with something wrong in it.

    Attributes:
        graph: makes the prompt from a number.
        message: part of what the user must read, beginning with the node's type if it is an error
            of the node.
        refused: whether the server must refuse the prompt before anything runs.
    """

    name: str
    graph: Callable[[int], Graph]
    message: str
    refused: bool = False

    def __str__(self) -> str:
        return f"fault: {self.name}"


_FLUX = Picture("flux", "file", (), 1)


def _file(stem: str) -> Callable[[int], Graph]:
    def graph(nonce: int) -> Graph:
        graph = picture_graph(_FLUX, nonce)
        graph[LOAD]["inputs"]["vq_name"] = file_name(stem)
        return graph

    return graph


def _vq_file_in_a_core_loader(nonce: int) -> Graph:
    graph = picture_graph(_FLUX, nonce)
    add(graph, LOAD, "UNETLoader", unet_name=file_name("core"), weight_dtype="default")
    return graph


def _quantized_twice(nonce: int) -> Graph:
    graph = picture_graph(Picture("sd15", "file", (), 1), nonce)
    graph[SAMPLER]["inputs"]["model"] = quantize_into(graph, [LOAD, 0], cache=True)
    return graph


def _saved_with_a_lora(nonce: int) -> Graph:
    graph: Graph = {}
    model = model_into(graph, Picture("flux", "file", (("low-rank", 1.0),), 1))
    saved = {"filename_prefix": f"soak/{nonce}", "embed_workflow": False}
    add(graph, "save", "SaveVQCheckpoint", model=model, **saved)
    return graph


def _impossible_bits(nonce: int) -> Graph:
    graph = picture_graph(Picture("flux", "quantized", (), 1), nonce)
    graph[QUANTIZER]["inputs"]["bits"] = "17"
    return graph


FAULTS = (
    Fault(
        "truncated file",
        _file("truncated"),
        "LoadVQCheckpoint: {folder}/soak-truncated.safetensors: ",
    ),
    Fault(
        "damaged header",
        _file("damaged"),
        "LoadVQCheckpoint: {folder}/soak-damaged.safetensors: vq.version: ",
    ),
    Fault("no VQ file", _file("other"), "soak-other.safetensors", refused=True),
    Fault("missing file", _file("gone"), "soak-gone.safetensors", refused=True),
    Fault("core loader", _vq_file_in_a_core_loader, "UNETLoader: ERROR: Could not detect model"),
    Fault(
        "quantized twice",
        _quantized_twice,
        "VQQuantizeModel: this MODEL is vector-quantized already: ",
    ),
    Fault(
        "saved with a LoRA", _saved_with_a_lora, "SaveVQCheckpoint: this VQ MODEL carries patches "
    ),
    Fault("17 bits", _impossible_bits, "17", refused=True),
)

Prompt = Picture | Interruption | Fault


@dataclass(frozen=True)
class Step:
    """One prompt of the soak, and whether the server is asked to free its memory before it."""

    prompt: Prompt
    unload: bool = False


@dataclass(frozen=True)
class Mix:
    """What the soak draws from."""

    models: tuple[tuple[str, str], ...] = (
        ("sd15", "file"),
        ("flux", "file"),
        ("sd15", "quantized"),
        ("flux", "baked"),
    )
    loras: tuple[Loras, ...] = (
        (),
        (("low-rank", 1.0),),
        (("low-rank", 0.5),),
        (("lokr", 1.0),),
        (("dora", 1.0),),
        (("dora", -0.5), ("low-rank", 0.8)),
    )
    seeds: tuple[int, ...] = (1, 2)
    faults: tuple[Fault, ...] = FAULTS
    interruptions: tuple[str, ...] = (SAMPLER, QUANTIZER)

    def pictures(self) -> list[Picture]:
        every = product(self.models, self.loras, self.seeds)
        return [Picture(*model, loras, seed) for model, loras, seed in every]

    def every_kind(self, rng: random.Random) -> list[Prompt]:
        """Each model with each set of LoRAs, each fault and each interruption, once."""
        pictures = [picture for picture in self.pictures() if picture.seed == self.seeds[0]]
        stopped = [Interruption(node, rng.choice(pictures)) for node in self.interruptions]
        return [*pictures, *self.faults, *stopped]

    def draw(self, rng: random.Random) -> Prompt:
        kind = rng.random()
        if kind < 0.15 and self.faults:
            return rng.choice(self.faults)
        if kind < 0.25:
            return Interruption(rng.choice(self.interruptions), rng.choice(self.pictures()))
        return rng.choice(self.pictures())


WITHOUT_VQ = Mix(models=(("sd15", "dense"), ("flux", "dense")), faults=(), interruptions=(SAMPLER,))
"""What shows how much memory the host itself comes to hold."""


def schedule(count: int, seed: int, mix: Mix) -> tuple[list[Step], int]:
    """``count`` prompts in the order in which they are posted, and how many of them warm up.

    While the server warms up, every kind of prompt occurs once.

    Raises:
        ValueError: ``count`` leaves nothing after the warm-up.
    """
    rng = random.Random(seed)
    prompts = mix.every_kind(rng)
    warm = len(prompts)
    if count <= warm:
        raise ValueError(f"found {count} prompts, expected more than the {warm} that warm up")
    rng.shuffle(prompts)
    first = rng.randrange(warm)
    steps = []
    for number in range(count):
        prompt = prompts[number] if number < warm else mix.draw(rng)
        steps.append(Step(prompt, number == first or rng.random() < 0.1))
    return steps, warm
