"""Tiny models that features need: the families, and relatives with more inputs, blocks or heads."""

from __future__ import annotations

from functools import partial

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ops
import torch
from torch import nn

from comfy_vq import codecs
from comfy_vq.model import Source, VQModel
from host.families import FAMILIES, Family, random_weight


def _unet(**changes) -> nn.Module:
    options = {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 320,
        "num_res_blocks": [1],
        "channel_mult": [1],
        "transformer_depth": [1],
        "transformer_depth_output": [0, 1],
        "transformer_depth_middle": -2,
        "use_spatial_transformer": True,
        "context_dim": 768,
        "num_heads": 8,
        "legacy": False,
        "operations": comfy.ops.manual_cast,
    }
    unet = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel
    return unet(**{**options, **changes})


def _flux(**changes) -> nn.Module:
    options = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 768,
        "context_in_dim": 64,
        "hidden_size": 128,
        "mlp_ratio": 4.0,
        "num_heads": 1,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [16, 56, 56],
        "txt_ids_dims": [],
        "theta": 10000,
        "qkv_bias": True,
        "operations": comfy.ops.manual_cast,
    }
    return comfy.ldm.flux.model.Flux(**{**options, **changes})


# With a second resolution.
_TWO_LEVELS = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [0, 0, 1, 1],
}
# With a middle block.
_MIDDLE = {"transformer_depth_output": [1, 1], "transformer_depth_middle": 1}
# With two blocks at the one resolution.
_TWO_BLOCKS = {
    "num_res_blocks": [2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1],
}

VARIANTS = {
    **FAMILIES,
    "sd15 deep": Family(partial(_unet, **_TWO_LEVELS), "BaseModel", (1, 4, 8, 8), 768),
    "sd15 middle": Family(partial(_unet, **_MIDDLE), "BaseModel", (1, 4, 8, 8), 768),
    "sd15 long": Family(partial(_unet, **_TWO_BLOCKS), "BaseModel", (1, 4, 8, 8), 768),
    "flux dev": Family(partial(_flux, guidance_embed=True), "Flux", (1, 16, 8, 8), 64, 768),
    "flux fill": Family(
        partial(_flux, guidance_embed=True, in_channels=96), "Flux", (1, 16, 8, 8), 64, 768
    ),
    "sd15 inpaint": Family(partial(_unet, in_channels=9), "BaseModel", (1, 4, 8, 8), 768),
    "sd15 edit": Family(partial(_unet, in_channels=8), "SD15_instructpix2pix", (1, 4, 8, 8), 768),
}


def random_vq_variant(variant: str, seed: int = 0) -> VQModel:
    """A VQ model with random codes of every width. Names its file ``variant``."""
    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, codecs.VQWeight] = {}
    dense = {}
    with torch.device("meta"):
        shapes = VARIANTS[variant].build().state_dict()
    for key, empty in shapes.items():
        shape = tuple(empty.shape)
        if key.endswith(".weight") and len(shape) in (2, 4):
            bits = (2, 3, 4, 5, 6, 8)[len(layers) % 6]
            additive = bits < 8 and shape[1] % 8 == 0
            codec, bits = ("additive", bits) if additive else ("int8", 8)
            layer = random_weight(codec, bits, shape, torch.float32, 1000 * seed + len(layers))
            layers[key.removesuffix(".weight")] = layer
            continue
        dense[key] = 0.1 * torch.randn(shape, generator=generator)
        if key.endswith(("norm.weight", "scale")) or "norm" in key:
            dense[key] += 1
    return VQModel(layers, dense, Source(variant), {})
