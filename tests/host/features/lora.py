"""LoRA: by the stock loaders, beside the weights, scheduled by hooks, trained in the graph."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from host.features.feature import Feature
from host.features.files import folder_of, picture, tiny_vae
from host.features.graph import Graph, call, one, other_prompt, sample, vq_of
from host.loras import low_rank_lora


def lora_file(graph: Graph, seed: int = 0) -> str:
    """The name of a LoRA file for the graph's model."""
    path = folder_of("loras") / f"{graph.variant}-{seed}.safetensors"
    if not path.exists():
        lora = low_rank_lora(graph.model, layers=12, seed=seed)
        comfy.utils.save_torch_file(lora, str(path))
    return path.name


def with_lora(graph: Graph, strength: float = 0.8, seed: int = 0) -> Graph:
    name = lora_file(graph, seed)
    model = one("LoraLoaderModelOnly", model=graph.model, lora_name=name, strength_model=strength)
    return graph.with_(model=model)


def _loader(node: str, **inputs: Any):
    def run(graph: Graph) -> Tensor:
        name = lora_file(graph)
        model = one(node, model=graph.model, lora_name=name, strength_model=0.8, **inputs)
        return sample(graph.with_(model=model))

    return run


def _two(graph: Graph) -> Tensor:
    return sample(with_lora(with_lora(graph, 0.8, seed=0), -0.5, seed=1))


def _changed_strength(graph: Graph) -> Tensor:
    """Sampled at one strength, then at another."""
    sample(with_lora(graph, 0.3))
    return sample(with_lora(graph, 1.2))


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
    left = torch.zeros((1, 64, 64))
    left[..., :32] = 1
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


def _control_lora_of_flux(graph: Graph) -> Tensor:
    """It widens the first layer, for a picture beside the noise."""
    generator = torch.Generator().manual_seed(15)
    lora = {
        "diffusion_model.img_in.lora_up.weight": torch.randn((128, 4), generator=generator) / 2,
        "diffusion_model.img_in.lora_down.weight": torch.randn((4, 128), generator=generator) / 11,
        "diffusion_model.img_in.reshape_weight": torch.tensor([128, 128]),
    }
    path = folder_of("loras") / "flux-control.safetensors"
    comfy.utils.save_torch_file(lora, str(path))
    model = one("LoraLoaderModelOnly", model=graph.model, lora_name=path.name, strength_model=1.0)
    positive, negative, latent = call(
        "InstructPixToPixConditioning",
        positive=graph.positive,
        negative=graph.negative,
        vae=tiny_vae(16),
        pixels=picture(),
    )
    return sample(graph.with_(model=model, positive=positive, negative=negative, latent=latent))


def _trained(graph: Graph, **inputs: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    latent = torch.randn(graph.latent["samples"].shape, generator=torch.Generator().manual_seed(4))
    settings = {
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": 2,
        "learning_rate": 0.01,
        "rank": 4,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": True,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": False,
        **inputs,
    }
    listed = {name: [value] for name, value in settings.items()}
    return one(
        "TrainLoraNode",
        model=[graph.model],
        latents=[{"samples": latent}],
        positive=[graph.positive],
        **listed,
    )


def _training(**inputs: Any):
    def run(graph: Graph) -> Tensor:
        lora = _trained(graph, **inputs)
        # One step of the optimizer moves each weight as far; amplified, so that it is seen.
        model = one("LoraModelLoader", model=graph.model, lora=lora, strength_model=4.0)
        return sample(graph.with_(model=model))

    return run


_NO_CLIP = {"clip": None, "strength_clip": 0.0}

FEATURES = [
    *(
        Feature(f"LoRA: {node}", (node,), variant, _loader(node, **inputs))
        for node, inputs, variant in (
            ("LoraLoader", _NO_CLIP, "sd15"),
            ("LoraLoaderModelOnly", {}, "flux"),
            ("LoraLoaderBypass", _NO_CLIP, "sd15"),
            ("LoraLoaderBypassModelOnly", {}, "flux"),
        )
    ),
    Feature("Two LoRAs", ("LoraLoaderModelOnly",), "sd15", _two),
    Feature("A LoRA's strength changed", ("LoraLoaderModelOnly",), "sd15", _changed_strength),
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
        "Flux control LoRA (widens a layer)",
        ("LoraLoaderModelOnly", "InstructPixToPixConditioning"),
        "flux",
        _control_lora_of_flux,
    ),
    Feature(
        "LoRA hooks on regions, beside a LoRA",
        ("PairConditioningSetProperties", "PairConditioningSetPropertiesAndCombine"),
        "sd15",
        _two_hooks_in_regions,
    ),
    Feature(
        "LoRA trained on the VQ model",
        ("TrainLoraNode", "LoraModelLoader"),
        "flux",
        _training(),
    ),
    Feature(
        "LoRA trained on the VQ model, beside the weights",
        ("TrainLoraNode", "LoraModelLoader"),
        "flux",
        _training(bypass_mode=True),
    ),
]
