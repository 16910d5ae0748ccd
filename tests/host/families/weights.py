"""Random weights for the small models, dense and coded."""

from __future__ import annotations

import math

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
