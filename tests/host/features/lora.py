"""LoRA: by the stock loaders, beside the weights, trained in the graph."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from torch import Tensor

from host.features.feature import Feature, Run
from host.features.files import folder_of, picture, tiny_vae
from host.features.graph import Graph, call, one, sample
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


def _loader(node: str, **inputs: Any) -> Run:
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


def _training(**inputs: Any) -> Run:
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
        "Flux control LoRA (widens a layer)",
        ("LoraLoaderModelOnly", "InstructPixToPixConditioning"),
        "flux",
        _control_lora_of_flux,
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
