"""Merges of models, and saving by the host's own nodes."""

from __future__ import annotations

from typing import Any

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from host.features.feature import Feature, Run
from host.features.files import folder_of, tiny_vae
from host.features.graph import Graph, call, one, present, sample, stock_nodes
from host.features.lora import with_lora

VQ_RESULT = "gives a VQ model: merged as it runs, weight by weight"
DENSE_RESULT = "gives a dense model"


def _merged(node: str, coded: bool = True, **inputs: Any) -> Run:
    """The model under test merged with another, coded or dense."""

    def run(graph: Graph) -> Tensor:
        models = {"model1": graph.model, "model2": graph.second(coded=coded)}
        return sample(graph.with_(model=one(node, **models, **inputs)))

    return run


def _into_dense(node: str, **inputs: Any) -> Run:
    """A dense model merged with the model under test."""

    def run(graph: Graph) -> Tensor:
        models = {"model1": graph.second(coded=False), "model2": graph.model}
        return sample(graph.with_(model=one(node, **models, **inputs)))

    return run


def _by_blocks(node: str) -> Run:
    """With a ratio of its own for the first group of weights that the node names."""

    def run(graph: Graph) -> Tensor:
        present(node)
        keys = list(graph.model.model.diffusion_model.state_dict())
        groups = list(stock_nodes()[node].INPUT_TYPES()["required"])[2:]
        group = next(g for g in groups if any(key.startswith(g) for key in keys))
        return _merged(node, **{group: 0.3})(graph)

    return run


def _other_dense(graph: Graph) -> Tensor:
    return sample(graph.with_(model=graph.second(coded=False)))


def _two_steps(graph: Graph) -> Tensor:
    """The difference of two models added to a third, as new inpainting models are made."""
    third = graph.second(seed=2)
    difference = one(
        "ModelMergeSubtract", model1=graph.model, model2=graph.second(), multiplier=0.5
    )
    return sample(graph.with_(model=one("ModelMergeAdd", model1=difference, model2=third)))


def _lora_on_merge(graph: Graph) -> Tensor:
    merged = one("ModelMergeSimple", model1=graph.model, model2=graph.second(), ratio=0.7)
    return sample(with_lora(graph.with_(model=merged)))


def _saved(graph: Graph) -> Tensor:
    """Saved with a LoRA on it, and loaded as any dense file is."""
    patched = with_lora(graph).model
    before = set(_outputs())
    call("ModelSave", model=patched, filename_prefix="diffusion_models/saved")
    (path,) = set(_outputs()) - before
    weights = comfy.utils.load_torch_file(str(path))
    assert all(type(tensor) is torch.Tensor for tensor in weights.values())
    name = f"saved-{graph.coded}.safetensors"
    comfy.utils.save_torch_file(weights, str(folder_of("diffusion_models") / name))
    return sample(graph.with_(model=one("UNETLoader", unet_name=name, weight_dtype="default")))


def _outputs() -> list:
    from pathlib import Path

    return list(Path(folder_paths.get_output_directory()).rglob("*.safetensors"))


def _checkpoint_saved(node: str, **inputs: Any) -> Run:
    def run(graph: Graph) -> Tensor:
        before = set(_outputs())
        merged = one("ModelMergeSimple", model1=graph.model, model2=graph.second(), ratio=0.5)
        call(node, model=merged, vae=tiny_vae(), filename_prefix="checkpoints/saved", **inputs)
        (path,) = set(_outputs()) - before
        name = f"saved-{graph.coded}.safetensors"
        (folder_of("checkpoints") / name).write_bytes(path.read_bytes())
        return sample(graph.with_(model=one("CheckpointLoaderSimple", ckpt_name=name)))

    return run


def _extracted(graph: Graph) -> Tensor:
    """The difference from another model extracted as a LoRA, and put on that other model."""
    other = graph.second()
    difference = one("ModelMergeSubtract", model1=graph.model, model2=other)
    before = set(_outputs())
    settings = {"rank": 16, "lora_type": "standard", "bias_diff": True}
    call("LoraSave", model_diff=difference, filename_prefix="loras/extracted", **settings)
    (path,) = set(_outputs()) - before
    name = f"extracted-{graph.coded}.safetensors"
    (folder_of("loras") / name).write_bytes(path.read_bytes())
    model = one("LoraLoaderModelOnly", model=other, lora_name=name, strength_model=1.0)
    return sample(graph.with_(model=model))


def _second(graph: Graph) -> Tensor:
    return sample(graph.with_(model=graph.second()))


_OF_FAMILIES = {
    "ModelMergeSD1": "sd15",
    "ModelMergeSD2": "sd2",
    "ModelMergeSDXL": "koala-700m",
    "ModelMergeSD3_2B": "sd3",
    "ModelMergeSD35_Large": "sd35",
    "ModelMergeFlux1": "flux",
    "ModelMergeAuraflow": "auraflow",
    "ModelMergeQwenImage": "qwen-image",
    "ModelMergeKrea2": "krea2",
    "ModelMergeWAN2_1": "wan",
    "ModelMergeLTXV": "ltxv",
    "ModelMergeMochiPreview": "mochi",
    "ModelMergeCosmos7B": "cosmos-t2v",
    "ModelMergeCosmos14B": "cosmos-t2v",
    "ModelMergeCosmosPredict2_2B": "cosmos-predict2-t2i",
    "ModelMergeCosmosPredict2_14B": "cosmos-predict2-t2i",
}
_BLOCKS = {"input": 0.3, "middle": 0.5, "out": 0.8}
_SIMPLE = {"ratio": 0.6}

FEATURES = [
    Feature(
        "Merge of two VQ models",
        ("ModelMergeSimple",),
        "sd15",
        _merged("ModelMergeSimple", **_SIMPLE),
        note=VQ_RESULT,
    ),
    Feature(
        "Merge of a VQ model with a dense one",
        ("ModelMergeSimple",),
        "sd15",
        _merged("ModelMergeSimple", coded=False, **_SIMPLE),
        note=VQ_RESULT,
    ),
    Feature(
        "Merge of a dense model with a VQ one",
        ("ModelMergeSimple",),
        "sd15",
        _into_dense("ModelMergeSimple", **_SIMPLE),
        _other_dense,
        note=DENSE_RESULT,
    ),
    Feature(
        "Merge by blocks",
        ("ModelMergeBlocks",),
        "sd15",
        _merged("ModelMergeBlocks", **_BLOCKS),
        note=VQ_RESULT,
    ),
    *(
        Feature(
            f"Merge by the blocks of a family: {node}",
            (node,),
            variant,
            _by_blocks(node),
            note=VQ_RESULT,
            slow=variant == "koala-700m",
        )
        for node, variant in _OF_FAMILIES.items()
    ),
    Feature(
        "Sum of two models",
        ("ModelMergeAdd",),
        "flux",
        _merged("ModelMergeAdd"),
        note=VQ_RESULT,
    ),
    Feature(
        "Difference of two models",
        ("ModelMergeSubtract",),
        "flux",
        _merged("ModelMergeSubtract", multiplier=0.5),
        note=VQ_RESULT,
    ),
    Feature(
        "Difference of two models added to a third",
        ("ModelMergeSubtract", "ModelMergeAdd"),
        "flux",
        _two_steps,
        note=VQ_RESULT,
    ),
    Feature("LoRA on a merge", ("ModelMergeSimple",), "sd15", _lora_on_merge, note=VQ_RESULT),
    Feature(
        "Saving a VQ model with a LoRA",
        ("ModelSave",),
        "sd15",
        _saved,
        note="writes the dense model that it decodes to, patches baked in",
    ),
    Feature(
        "Saving a merge as a checkpoint",
        ("CheckpointSave",),
        "sd15",
        _checkpoint_saved("CheckpointSave", clip=None),
        note="writes the dense model that it decodes to, patches baked in",
    ),
    Feature(
        "Saving a merge as a video checkpoint",
        ("ImageOnlyCheckpointSave",),
        "sd15",
        _checkpoint_saved("ImageOnlyCheckpointSave", clip_vision=None),
        note="writes the dense model that it decodes to, patches baked in",
    ),
    Feature("A difference extracted as a LoRA", ("LoraSave",), "flux", _extracted, _second),
]
