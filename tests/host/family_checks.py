"""What is checked of every model family, for the tests and for the table in the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from comfy_vq import checkpoint
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load, load_file, origin_of
from comfy_vq.hosts.comfy.model.source import HeldWeight, ModelSource, held_weights
from comfy_vq.hosts.comfy.quantizing import quantize_model
from comfy_vq.model import VQModel
from comfy_vq.plan import detect_family
from comfy_vq.quantize import WeightSource
from host.families import ALL_FAMILIES, beside_weights, random_weight, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample

BITS = 4.0


@dataclass(frozen=True)
class Outcome:
    """How a family fared.

    Attributes:
        family: name of the test model.
        host_class: the host's class that it was loaded as.
        predicts: what it predicts (``EPS``, ``V_PREDICTION``, ``FLOW``, ...): dense, and as loaded.
        plan_family: whose sensitivities the plan used.
        weights: of the test model.
        coded: layers and weights that are coded.
        dense: weights that are not, by the kind of module that holds them.
        asked: bits per weight that were asked for; None where codes are random.
        bits: bits per weight of the whole model, counted from the file.
        sampled: relative L2 of a sampled latent to that of the dense model of decoded weights.
        adapted: the same with a LoRA on both.
        effect: relative L2 between sampling with and without that LoRA.
    """

    family: str
    host_class: str
    predicts: tuple[str, str]
    plan_family: str
    weights: int
    coded: tuple[int, int]
    dense: Mapping[str, int]
    asked: float | None
    bits: float
    sampled: float
    adapted: float
    effect: float


def check(name: str, folder: Path, *, quantized: bool) -> Outcome:
    """Quantize, save, load, sample, and sample with a LoRA.

    Args:
        quantized: code the weights by VQ Quantize Model; otherwise random codes stand for them,
            on the layers that it would code.
    """
    family = ALL_FAMILIES[name]
    with family.detected():
        dense = load_family(name, tiny_state_dict(name))
        source = ModelSource(dense)
        if quantized:
            model, _ = quantize_model(dense, BITS, "fast", "")
        else:
            model = load(InMemory(random_codes(source)))
        path = folder / f"{name}.safetensors"
        checkpoint.save(path, origin_of(model).read())
        loaded = load_file(str(path))
        vq = origin_of(loaded).read()
        decoded = load_dense({**vq.decode(torch.float32), **vq.source.root}, vq.source.metadata)
        expected = sample(decoded, name)
        sampled = relative_l2(expected, sample(loaded, name))
        adapted, effect = _with_lora(name, decoded, loaded, expected)
    held = held_weights(loaded.model.diffusion_model)
    return Outcome(
        name,
        type(loaded.model).__name__,
        (dense.model.model_type.name, loaded.model.model_type.name),
        detect_family({key: source.shape(key) for key in source.keys()}),  # noqa: SIM118
        vq.numel,
        (len(vq.layers), sum(weight.numel for weight in vq.layers.values())),
        left_dense(w for w in held if not is_coded(w.tensor)),
        BITS if quantized else None,
        vq.bits_per_weight,
        sampled,
        adapted,
        effect,
    )


def load_family(name: str, weights: dict[str, Tensor]) -> ModelPatcher:
    """A dense MODEL of a family, as the host loads it from a checkpoint."""
    family = ALL_FAMILIES[name]
    return load_dense({**weights, **beside_weights(family)}, family.metadata)


def random_codes(source: WeightSource, dtype: torch.dtype = torch.float32) -> VQModel:
    """A model with random codes of every width on all layers that can be coded."""
    layers, dense = {}, {}
    for key in source.keys():  # noqa: SIM118 - not a mapping
        shape = source.shape(key)
        if not source.codable(key):
            dense[key] = source.read(key).clone()
            continue
        bits = (1, 2, 3, 4, 5, 6, 8)[len(layers) % 7]
        codec, bits = ("additive", bits) if bits < 8 and shape[1] % 8 == 0 else ("int8", 8)
        layers[key.removesuffix(".weight")] = random_weight(codec, bits, shape, dtype, len(layers))
    return VQModel(layers, dense, source.source, {})


def _with_lora(
    name: str, decoded: ModelPatcher, coded: ModelPatcher, without: Tensor
) -> tuple[float, float]:
    lora = spread(low_rank_lora(decoded, layers=10**6, dimensions=(2, 3, 4, 5)))
    expected_model, _ = comfy.sd.load_lora_for_models(decoded, None, lora, 0.8, 0)
    model, _ = comfy.sd.load_lora_for_models(coded, None, lora, 0.8, 0)
    assert len(model.patches) == len(expected_model.patches) > 0
    expected = sample(expected_model, name)
    return relative_l2(expected, sample(model, name)), relative_l2(without, expected)


def spread(lora: Mapping[str, Tensor], layers: int = 8) -> dict[str, Tensor]:
    """Some layers of a LoRA, from the first to the last; those at the start may do nothing."""
    names = sorted({key.split(".lora_")[0].removesuffix(".alpha") for key in lora})
    chosen = {names[round(i * (len(names) - 1) / (layers - 1))] for i in range(layers)}
    return {
        key: tensor
        for key, tensor in lora.items()
        if key.split(".lora_")[0].removesuffix(".alpha") in chosen
    }


def left_dense(weights: Iterable[HeldWeight]) -> dict[str, int]:
    """Numbers of weights by the kind of what holds them; those of one dimension are of no account."""
    found: Counter[str] = Counter()
    for held in weights:
        if held.tensor.ndim > 1:
            kind = type(held.module).__name__
            found[kind if held.name == "weight" else f"{kind}.{held.name}"] += held.tensor.numel()
    return dict(found)
