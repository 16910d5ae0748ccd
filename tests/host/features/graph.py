"""What a user's graph does, in this process: calls of stock nodes by name, and sampling."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import comfy.utils
import nodes
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.model import VQModel
from host.features.files import folder_of
from host.features.variants import VARIANTS, random_vq_variant


class Absent(Exception):
    """This ComfyUI has no such node or model family."""


@cache
def stock_nodes() -> dict[str, type]:
    """All node classes that come with ComfyUI, by name."""
    asyncio.run(nodes.init_builtin_extra_nodes())
    return dict(nodes.NODE_CLASS_MAPPINGS)


def present(node: str) -> None:
    """Raises Absent if there is no such node."""
    if node not in stock_nodes():
        raise Absent(f"this ComfyUI has no node {node}")


def call(node: str, /, **inputs: Any) -> tuple:
    """The outputs of a stock node; inputs that are not given get their defaults.

    Raises:
        Absent: there is no such node.
    """
    present(node)
    cls = stock_nodes()[node]
    for name, (kind, *options) in cls.INPUT_TYPES().get("required", {}).items():
        inputs.setdefault(name, _default(kind, *options))
    found = getattr(cls(), cls.FUNCTION)(**inputs)
    if asyncio.iscoroutine(found):
        found = asyncio.run(found)
    return tuple(getattr(found, "result", found) or ())


def _default(kind: str | list[str], details: dict[str, Any] | None = None) -> Any:
    """What the interface shows in a widget that nobody has touched."""
    details = details or {}
    choices = details.get("options", [None]) if isinstance(kind, str) else kind
    first = choices[0] if choices else None
    return details.get("default", False if kind == "BOOLEAN" else first)


def one(node: str, /, **inputs: Any) -> Any:
    """The first output of a stock node."""
    return call(node, **inputs)[0]


@dataclass(frozen=True)
class Graph:
    """A MODEL with all that a KSampler takes besides, and where a second model comes from.

    Attributes:
        coded: whether the model under test is vector-quantized. The same feature on the same graph
            with the dense model of the decoded weights gives what is expected.
    """

    variant: str
    coded: bool
    model: ModelPatcher
    positive: list
    negative: list
    latent: dict[str, Any]
    steps: int = 2
    cfg: float = 4.0
    sampler: str = "euler"
    scheduler: str = "simple"
    denoise: float = 1.0

    def with_(self, **changes: Any) -> Graph:
        return replace(self, **changes)

    def second(self, seed: int = 1, coded: bool = True) -> ModelPatcher:
        """Another model of the family; coded if asked for, where the first one is."""
        return model_of(self.variant, self.coded and coded, seed)


@cache
def start(variant: str, coded: bool) -> Graph:
    """A model of random weights with a prompt and an empty latent.

    Features share it, one after the other, as the prompts of a server do.

    Raises:
        Absent: this ComfyUI does not know the family.
    """
    if VARIANTS[variant].missing:
        raise Absent(VARIANTS[variant].missing)
    chosen = VARIANTS[variant]
    positive, negative = chosen.conditioning()
    latent = {"samples": chosen.empty_latent()}
    return Graph(variant, coded, model_of(variant, coded), positive, negative, latent)


def other_prompt(graph: Graph) -> list:
    """Conditioning of another text."""
    context, details = graph.positive[0]
    noise = torch.randn(context.shape, generator=torch.Generator().manual_seed(7))
    return [[noise, dict(details)]]


@cache
def vq_of(variant: str, seed: int = 0) -> VQModel:
    return random_vq_variant(variant, seed)


def model_of(variant: str, coded: bool, seed: int = 0) -> ModelPatcher:
    """A fresh MODEL: vector-quantized, or dense with the decoded weights, from a file."""
    vq = vq_of(variant, seed)
    with VARIANTS[variant].detected():
        if coded:
            return load(InMemory(vq))
        path = folder_of("diffusion_models") / f"{variant}-{seed}.safetensors"
        if not path.exists():
            weights = {**vq.decode(torch.float32), **vq.source.root}
            comfy.utils.save_torch_file(weights, str(path), metadata=dict(vq.source.metadata))
        return one("UNETLoader", unet_name=path.name, weight_dtype="default")


def sample(graph: Graph) -> Tensor:
    """Latents, as the KSampler node makes them."""
    return one(
        "KSampler",
        model=graph.model,
        seed=1,
        steps=graph.steps,
        cfg=graph.cfg,
        sampler_name=graph.sampler,
        scheduler=graph.scheduler,
        positive=graph.positive,
        negative=graph.negative,
        latent_image=graph.latent,
        denoise=graph.denoise,
    )["samples"]
