"""Text encoders of the host's own classes, most of them tiny: the host's configurations with other sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import comfy.lora
import comfy.sd
import comfy.sd1_clip
import torch
from comfy.sd import CLIPType
from torch import Tensor

from comfy_vq import codecs
from comfy_vq.hosts.comfy.clip.types import about
from comfy_vq.model import Component, Source, VQModel
from host.families import random_weight

PROMPT = "a photo of a (red:1.3) fox, from above"

_CLIP = {"num_attention_heads": 4, "hidden_size": 128, "intermediate_size": 256}
_T5 = {"d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 256, "num_layers": 4}
SIZES: dict[str, dict[str, Any]] = {
    "sd1_clip_config.json": {**_CLIP, "num_hidden_layers": 4},
    "sd2_clip_config.json": {**_CLIP, "num_hidden_layers": 24},
    "clip_config_bigg.json": {**_CLIP, "num_hidden_layers": 32},
    "t5_config_xxl.json": _T5,
}
"""Of a configuration file of the host's, what is made smaller. Numbers of layers by which the host tells
encoders apart stay."""

KINDS: dict[str, tuple[CLIPType, tuple[str, ...]]] = {
    "sd1": (CLIPType.STABLE_DIFFUSION, ("clip_l",)),
    "sdxl": (CLIPType.STABLE_DIFFUSION, ("clip_l", "clip_g")),
    "flux": (CLIPType.FLUX, ("clip_l", "t5xxl")),
    "sd3": (CLIPType.SD3, ("clip_l", "clip_g")),
}
"""CLIPs by name: the type that the host's loader is asked for, and the encoders' files."""


@contextmanager
def tiny_encoders(sizes: dict[str, dict[str, Any]] = SIZES) -> Iterator[None]:
    """The host builds encoders of other sizes than its configuration files say."""

    def load(file: Any) -> Any:
        return {**json.load(file), **sizes.get(os.path.basename(file.name), {})}

    with mock.patch.object(comfy.sd1_clip, "json", SimpleNamespace(load=load)):
        yield


def clip_of(
    encoders: dict[str, dict[str, Tensor]],
    kind: str,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> comfy.sd.CLIP:
    """A CLIP as the host's loader nodes make it of one file for each encoder."""
    clip_type, _ = KINDS[kind]
    return comfy.sd.load_text_encoder_state_dicts(
        [dict(encoder) for encoder in encoders.values()],
        clip_type=clip_type,
        model_options={"dtype": dtype, **options},
    )


def random_encoders(
    kind: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """Random weights for each encoder of a kind, under the names of its own file."""
    generator = torch.Generator().manual_seed(seed)
    _, names = KINDS[kind]
    found = {}
    for name in names:
        weights = _encoder(name).transformer.state_dict()
        found[name] = {key: _random(key, t, generator).to(dtype) for key, t in weights.items()}
    return found


def random_clip(
    kind: str, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any
) -> comfy.sd.CLIP:
    """A dense CLIP of random weights."""
    return clip_of(random_encoders(kind, dtype, seed), kind, dtype, **options)


def random_vq_clip(kind: str, dtype: torch.dtype = torch.float32) -> Component:
    """Text encoders of random codes for a file, which cost no encoding; tables and biases are dense."""
    dense = random_clip(kind, dtype)
    layers, others = {}, {}
    for key, tensor in dense.cond_stage_model.state_dict().items():
        if key.endswith(("_proj.weight", "fc1.weight", "fc2.weight")):
            weight = random_weight("additive", 3, tuple(tensor.shape), dtype, len(layers))
            layers[key.removesuffix(".weight")] = weight
        else:
            others[key] = tensor
    return Component(VQModel(layers, others, Source("random")), about(dense))


def meta_vq_clip(kind: str) -> Component:
    """Text encoders at 3 bits of which there are only shapes, but for tables, biases and norms (zeros)."""
    clip_type, names = KINDS[kind]
    layers, others = {}, {}
    for encoder in names:
        transformer = _encoder(encoder).transformer
        linear = {n for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear)}
        for key, tensor in transformer.state_dict().items():
            name = f"{encoder}.transformer.{key}"
            if key.removesuffix(".weight") in linear:
                layers[name.removesuffix(".weight")] = _meta_weight(tuple(tensor.shape))
            else:
                others[name] = torch.zeros(tensor.shape, dtype=torch.float16)
        others[f"{encoder}.logit_scale"] = torch.tensor(4.6055)
    facts = {"type": clip_type.name.lower(), "model": "FluxClipModel", "tokenizer": "FluxTokenizer"}
    return Component(VQModel(layers, others, Source("meta")), facts)


def _meta_weight(shape: tuple[int, ...]) -> codecs.VQWeight:
    spec = codecs.spec_for("additive", 3, shape)
    pieces = {
        name: torch.empty(piece.shape, dtype=piece.dtype, device="meta")
        for name, piece in codecs.get("additive").pieces(spec, shape).items()
    }
    return codecs.VQWeight(spec, shape, torch.float16, pieces, codecs.shipped_set(3))


def decoded_clip(vq: Any, kind: str) -> comfy.sd.CLIP:
    """A dense CLIP of the weights that a VQ one decodes to, in float32."""
    encoders: dict[str, dict[str, Tensor]] = {}
    for key, tensor in vq.decode(torch.float32).items():
        name, separator, own = key.partition(".transformer.")
        if separator:
            encoders.setdefault(name, {})[own] = tensor
    return clip_of(encoders, kind)


def encode(clip: comfy.sd.CLIP, prompt: str = PROMPT) -> dict[str, Tensor]:
    """All that the host's node makes of a prompt."""
    ((cond, others),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    found = {"cond": cond, **others}
    return {name: value for name, value in found.items() if torch.is_tensor(value)}


def _encoder(name: str) -> Any:
    classes = {
        "clip_l": comfy.sd1_clip.SDClipModel,
        "clip_g": comfy.sdxl_clip.SDXLClipG,
        "clip_h": comfy.text_encoders.sd2_clip.SD2ClipHModel,
        "t5xxl": comfy.text_encoders.sd3_clip.T5XXLModel,
    }
    return classes[name](device="meta", dtype=torch.float32)


def _random(key: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if tensor.ndim < 2:
        return 0.1 * noise + float("norm" in key and key.endswith("weight"))
    return noise if "embed" in key or "shared" in key else noise / tensor.shape[1] ** 0.5


def clip_lora(
    clip: comfy.sd.CLIP, rank: int = 4, seed: int = 0, tables: bool = True
) -> dict[str, Tensor]:
    """A plain LoRA on every linear layer and table of the encoders that the host has names for."""
    generator = torch.Generator().manual_seed(seed)
    model = clip.cond_stage_model
    kinds = (torch.nn.Linear, torch.nn.Embedding) if tables else torch.nn.Linear
    weights = {f"{n}.weight": m.weight for n, m in model.named_modules() if isinstance(m, kinds)}
    lora: dict[str, Tensor] = {}
    for name, key in comfy.lora.model_lora_keys_clip(model, {}).items():
        weight = weights.get(key)
        if weight is None or not name.startswith("lora_te"):
            continue
        rows, columns = weight.shape
        lora[f"{name}.lora_up.weight"] = torch.randn((rows, rank), generator=generator) / rank
        down = torch.randn((rank, columns), generator=generator) / columns**0.5
        lora[f"{name}.lora_down.weight"] = down
        lora[f"{name}.alpha"] = torch.tensor(float(rank))
    return lora
