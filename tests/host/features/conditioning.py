"""What a prompt carries besides text: places, times, other prompts; and windows of a long video."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from host.features.feature import Feature, Run
from host.features.graph import Graph, one, other_prompt, sample


def _area(graph: Graph) -> Tensor:
    area = {"width": 64, "height": 64, "x": 64, "y": 0, "strength": 0.9}
    there = one("ConditioningSetArea", conditioning=other_prompt(graph), **area)
    both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
    return sample(_wide(graph).with_(positive=both))


def _area_percentage(graph: Graph) -> Tensor:
    area = {"width": 0.5, "height": 1.0, "x": 0.5, "y": 0.0}
    there = one("ConditioningSetAreaPercentage", conditioning=other_prompt(graph), **area)
    both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
    return sample(_wide(graph).with_(positive=both))


def _wide(graph: Graph) -> Graph:
    channels = graph.latent["samples"].shape[1]
    return graph.with_(latent={"samples": torch.zeros((1, channels, 8, 16))})


def _wide_without(graph: Graph) -> Tensor:
    return sample(_wide(graph))


def half_mask(side: int = 64) -> Tensor:
    """A MASK of the left half."""
    mask = torch.zeros((1, side, side))
    mask[..., : side // 2] = 1
    return mask


def _mask(area: str) -> Run:
    def run(graph: Graph) -> Tensor:
        where = {"mask": half_mask(), "set_cond_area": area}
        there = one("ConditioningSetMask", conditioning=other_prompt(graph), **where)
        both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
        return sample(graph.with_(positive=both))

    return run


def _prompts(node: str, first: str, second: str, **inputs: Any) -> Run:
    def run(graph: Graph) -> Tensor:
        prompts = {first: graph.positive, second: other_prompt(graph)}
        return sample(graph.with_(positive=one(node, **prompts, **inputs)))

    return run


def _timesteps(graph: Graph) -> Tensor:
    early = one("ConditioningSetTimestepRange", conditioning=graph.positive, start=0.0, end=0.5)
    late = one("ConditioningSetTimestepRange", conditioning=other_prompt(graph), start=0.5, end=1.0)
    both = one("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    return sample(graph.with_(positive=both))


def _guidance(graph: Graph) -> Tensor:
    positive = one("FluxGuidance", conditioning=graph.positive, guidance=8.0)
    return sample(graph.with_(positive=positive))


def _windows(node: str, **inputs: Any) -> Run:
    def run(graph: Graph) -> Tensor:
        model = one(node, model=graph.model, **inputs)
        return sample(_many_frames(graph).with_(model=model))

    return run


def _many_frames(graph: Graph) -> Graph:
    channels, size = graph.latent["samples"].shape[1], graph.latent["samples"].shape[-2:]
    return graph.with_(latent={"samples": torch.zeros((1, channels, 9, *size))})


def _many_frames_without(graph: Graph) -> Tensor:
    return sample(_many_frames(graph))


_MANUAL = {"context_length": 4, "context_overlap": 2, "dim": 2}


FEATURES = [
    Feature("Area of a prompt", ("ConditioningSetArea",), "sd15", _area, _wide_without),
    Feature(
        "Area of a prompt in percent",
        ("ConditioningSetAreaPercentage",),
        "sd15",
        _area_percentage,
        _wide_without,
    ),
    Feature("Mask of a prompt", ("ConditioningSetMask",), "sd15", _mask("default")),
    Feature(
        "Mask of a prompt, by its bounds", ("ConditioningSetMask",), "sd15", _mask("mask bounds")
    ),
    Feature("Prompts by time", ("ConditioningSetTimestepRange",), "sd15", _timesteps),
    *(
        Feature(f"Prompts joined: {node}", (node,), "sd15", _prompts(node, *names, **inputs))
        for node, names, inputs in (
            ("ConditioningCombine", ("conditioning_1", "conditioning_2"), {}),
            ("ConditioningConcat", ("conditioning_to", "conditioning_from"), {}),
            (
                "ConditioningAverage",
                ("conditioning_to", "conditioning_from"),
                {"conditioning_to_strength": 0.4},
            ),
        )
    ),
    Feature("Distilled guidance", ("FluxGuidance",), "flux-dev", _guidance),
    *(
        Feature(
            f"Context windows: {node}",
            (node,),
            variant,
            _windows(node, **inputs),
            _many_frames_without,
        )
        for node, variant, inputs in (
            ("ContextWindowsManual", "wan", _MANUAL),
            ("WanContextWindowsManual", "wan", {"context_length": 13, "context_overlap": 5}),
            ("LTXVContextWindows", "ltxv", {"context_length": 25, "context_overlap": 8}),
        )
    ),
]
