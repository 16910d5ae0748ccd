"""Random weights for the small models, dense and coded."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from comfy_vq import codecs
from comfy_vq.model import Source, VQModel

from .family import Family


def dense_weights(
    family: Family, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights of a bare diffusion model: matrices scaled to their width, norms near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, tensor in family.build().state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim >= 2:
            noise = noise / max(1, tensor[0].numel()) ** 0.5
        else:
            noise = 0.1 * noise + float(key.endswith(("norm.weight", "scale")) or "norm" in key)
        weights[family.prefix + key] = noise.to(dtype)
    if family.adjust is not None:
        family.adjust(weights)
    return weights


def beside_weights(family: Family, seed: int = 0) -> dict[str, Tensor]:
    """What such a checkpoint holds beside the diffusion model, by which the loader knows it."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) / max(1, math.prod(shape[1:])) ** 0.5
        for name, shape in family.root.items()
    }


def coded_at_random(
    name: str, weights: dict[str, Tensor], family: Family, seed: int = 0
) -> VQModel:
    """A VQ model with random codes of every width, which costs no encoding."""
    weights = dict(weights)
    layers: dict[str, codecs.VQWeight] = {}
    for key in list(weights):
        shape, dtype = tuple(weights[key].shape), weights[key].dtype
        if key.endswith(".weight") and len(shape) in (2, 4):
            bits = (1, 2, 3, 4, 5, 6, 8)[len(layers) % 7]
            additive = bits < 8 and shape[1] % 8 == 0
            codec, bits = ("additive", bits) if additive else ("int8", 8)
            layers[key.removesuffix(".weight")] = random_weight(
                codec, bits, shape, dtype, seed + len(layers)
            )
            del weights[key]
    source = Source(name, None, "", dict(family.metadata), beside_weights(family, seed))
    return VQModel(layers, weights, source, {})


def random_weight(
    codec: str, bits: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0
) -> codecs.VQWeight:
    """A coded weight with random codes."""
    generator = torch.Generator().manual_seed(seed)
    spec = codecs.spec_for(codec, bits, shape)
    pieces = {}
    for name, piece in codecs.get(codec).pieces(spec, shape).items():
        if piece.dtype.is_floating_point:
            width = torch.Size(shape[1:]).numel()
            value = (1 + torch.rand(piece.shape, generator=generator)) / width**0.5
        else:
            limits = torch.iinfo(piece.dtype)
            value = torch.randint(limits.min, limits.max, piece.shape, generator=generator)
        pieces[name] = value.to(piece.dtype)
    shared = codecs.shipped_set(bits) if codec == "additive" else None
    return codecs.VQWeight(spec, shape, dtype, pieces, shared)


def in_original_naming(name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as the first checkpoints of a family hold them, which the host renames or cuts up.

    Args:
        name: ``hunyuan-video``, ``stable-cascade-c``, ``wan-dancer`` or ``pixeldit``.
        weights: under the host's names.
    """
    if name == "hunyuan-video":
        return {_hunyuan_name(key): tensor for key, tensor in weights.items()}
    fuse = _fused_modulation if name == "pixeldit" else _fused_projections
    return fuse(weights)


def _hunyuan_name(key: str) -> str:
    for host, original in (
        ("_attn.qkv.", "_attn_qkv."),
        ("_attn.proj.", "_attn_proj."),
        ("_mod.lin.", "_mod.linear."),
        (".modulation.lin.", ".modulation.linear."),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.2.", "mlp.fc2."),
    ):
        key = key.replace(host, original)
    return key


def _fused_projections(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values of ``torch.nn.MultiheadAttention``, which are one parameter."""
    fused = dict(weights)
    for key in weights:
        if found := _QUERY.fullmatch(key):
            start, query, suffix = found.groups()
            names = (query.replace("q", letter) for letter in "qkv")
            parts = [fused.pop(f"{start}.{name}.{suffix}") for name in names]
            fused[f"{start}.in_proj_{suffix}"] = torch.cat(parts)
    return fused


_QUERY = re.compile(r"(.+attention\.attn|music_encoder.+self_attn)\.(to_q|q_proj)\.(weight|bias)")


def _fused_modulation(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The modulation of pixel blocks, of which each pixel's first three parts are for attention."""
    fused = dict(weights)
    dim = weights["core.pixel_embedder.proj.weight"].shape[0]
    for key in weights:
        if ".adaLN_modulation_msa." not in key:
            continue
        second = fused.pop(key.replace("_msa.", "_mlp."))
        parts = [fused.pop(key).unflatten(0, (-1, 3, dim)), second.unflatten(0, (-1, 3, dim))]
        name = key.replace(".adaLN_modulation_msa.", ".adaLN_modulation.0.")
        fused[name] = torch.cat(parts, dim=1).flatten(0, 2)
    return fused
