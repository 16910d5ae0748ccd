"""What cannot be done with a VQ model, and says so."""

from __future__ import annotations

from torch import Tensor

from comfy_vq.hosts.comfy.files.saving import save_model
from comfy_vq.hosts.comfy.quantizing import quantize_model
from host.features.feature import Feature
from host.features.graph import Graph, one, sample
from host.features.lora import lora_file, with_lora


def _quantized_again(graph: Graph) -> Tensor:
    if graph.coded:
        quantize_model(graph.model, 3.0, "fast", "")
    return sample(graph)


def _saved_with_lora(graph: Graph) -> Tensor:
    if graph.coded:
        save_model(with_lora(graph).model, "diffusion_models/patched")
    return sample(graph)


def _saved_merge(graph: Graph) -> Tensor:
    if graph.coded:
        merged = one("ModelMergeSimple", model1=graph.model, model2=graph.second(), ratio=0.5)
        save_model(merged, "diffusion_models/merged")
    return sample(graph)


def _bypass_before(graph: Graph) -> Tensor:
    """On the dense model, which is what the node takes."""
    if graph.coded:
        dense = graph.second(coded=False)
        lora = {"lora_name": lora_file(graph), "strength_model": 0.8}
        quantize_model(one("LoraLoaderBypassModelOnly", model=dense, **lora), 3.0, "fast", "")
    return sample(graph)


FEATURES = [
    Feature(
        "Quantizing a VQ model again",
        ("VQQuantizeModel",),
        "flux",
        _quantized_again,
        refused="is vector-quantized already",
    ),
    Feature(
        "Saving a VQ model with a LoRA as a VQ checkpoint",
        ("SaveVQCheckpoint",),
        "flux",
        _saved_with_lora,
        refused="carries patches",
    ),
    Feature(
        "Saving a merge as a VQ checkpoint",
        ("SaveVQCheckpoint",),
        "flux",
        _saved_merge,
        refused="carries patches",
    ),
    Feature(
        "Quantizing a model with a bypass LoRA",
        ("VQQuantizeModel", "LoraLoaderBypassModelOnly"),
        "flux",
        _bypass_before,
        refused="carries a bypass LoRA",
    ),
]
