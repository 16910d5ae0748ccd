"""LoRA hooks: of a prompt, by a schedule, in a region."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from host.features.conditioning import half_mask
from host.features.feature import Feature
from host.features.files import folder_of
from host.features.graph import Graph, call, one, other_prompt, sample, vq_of
from host.features.lora import lora_file, with_lora


def _hooked(graph: Graph, **inputs: Any) -> Any:
    return one("CreateHookLoraModelOnly", lora_name=lora_file(graph), strength_model=0.8, **inputs)


def _on_both(graph: Graph, hooks: Any) -> Graph:
    prompts = {"positive_NEW": graph.positive, "negative_NEW": graph.negative}
    positive, negative = call("PairConditioningSetProperties", hooks=hooks, **prompts)
    return graph.with_(positive=positive, negative=negative)


def _hook(graph: Graph) -> Tensor:
    return sample(_on_both(graph, _hooked(graph)))


def _hook_on_one_prompt(graph: Graph) -> Tensor:
    positive = one("ConditioningSetProperties", cond_NEW=graph.positive, hooks=_hooked(graph))
    return sample(graph.with_(positive=positive))


def _scheduled_hook(graph: Graph) -> Tensor:
    keyframes = None
    for strength, start in ((1.0, 0.0), (0.3, 0.4), (0.0, 0.8)):
        keyframes = one(
            "CreateHookKeyframe",
            strength_mult=strength,
            start_percent=start,
            prev_hook_kf=keyframes,
        )
    hooks = one("SetHookKeyframes", hooks=_hooked(graph), hook_kf=keyframes)
    return sample(_on_both(graph, hooks).with_(steps=5))


def _five_steps(graph: Graph) -> Tensor:
    return sample(graph.with_(steps=5))


def _two_hooks_in_regions(graph: Graph) -> Tensor:
    """A hook each on two prompts that share the picture by masks, on a model with a LoRA."""
    left = half_mask()
    second = one("CreateHookLoraModelOnly", lora_name=lora_file(graph, 1), strength_model=0.6)
    positive, negative = call(
        "PairConditioningSetProperties",
        positive_NEW=graph.positive,
        negative_NEW=graph.negative,
        mask=left,
        hooks=_hooked(graph),
    )
    positive, negative = call(
        "PairConditioningSetPropertiesAndCombine",
        positive=positive,
        negative=negative,
        positive_NEW=other_prompt(graph),
        negative_NEW=graph.negative,
        mask=1 - left,
        hooks=second,
    )
    return sample(with_lora(graph, 0.4, seed=2).with_(positive=positive, negative=negative))


def _combined_hooks(graph: Graph) -> Tensor:
    second = one("CreateHookLoraModelOnly", lora_name=lora_file(graph, 1), strength_model=-0.5)
    return sample(_on_both(graph, one("CombineHooks2", hooks_A=_hooked(graph), hooks_B=second)))


def _another_model_as_hook(graph: Graph) -> Tensor:
    """A whole checkpoint, of which the difference from the model is added."""
    name = f"{graph.variant}-hook.safetensors"
    weights = vq_of(graph.variant, seed=3).decode(torch.float32)
    named = {f"model.diffusion_model.{key}": value for key, value in weights.items()}
    comfy.utils.save_torch_file(named, str(folder_of("checkpoints") / name))
    hooks = one("CreateHookModelAsLoraModelOnly", ckpt_name=name, strength_model=0.4)
    return sample(_on_both(graph, hooks))


FEATURES = [
    Feature(
        "LoRA hook", ("CreateHookLoraModelOnly", "PairConditioningSetProperties"), "sd15", _hook
    ),
    Feature(
        "LoRA hook on the positive prompt alone",
        ("CreateHookLoraModelOnly", "ConditioningSetProperties"),
        "sd15",
        _hook_on_one_prompt,
    ),
    Feature(
        "LoRA hook with scheduled strength",
        ("CreateHookKeyframe", "SetHookKeyframes"),
        "sd15",
        _scheduled_hook,
        _five_steps,
    ),
    Feature("Two LoRA hooks combined", ("CombineHooks2",), "sd15", _combined_hooks),
    Feature(
        "Another model as a LoRA hook",
        ("CreateHookModelAsLoraModelOnly",),
        "flux",
        _another_model_as_hook,
    ),
    Feature(
        "LoRA hooks on regions, beside a LoRA",
        ("PairConditioningSetProperties", "PairConditioningSetPropertiesAndCombine"),
        "sd15",
        _two_hooks_in_regions,
    ),
]
