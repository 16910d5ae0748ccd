"""Tiny models with random weights that ComfyUI's own loader detects, one per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ldm.wan.model
import comfy.ops
import torch
from torch import Tensor, nn

from comfy_vq import codecs
from comfy_vq.model import Source, VQModel


@dataclass(frozen=True)
class Family:
    """How to build a tiny model, and what to sample it with.

    Attributes:
        build: the bare diffusion model, weights not initialized.
        host_class: name of the host's model class that the loader should choose.
        latent: shape of the latents.
        context: width of the text conditioning.
        pooled: width of the pooled conditioning; 0 where the family has none.
    """

    build: Callable[[], nn.Module]
    host_class: str
    latent: tuple[int, ...]
    context: int
    pooled: int = 0


def _sd15() -> nn.Module:
    return comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_output=[0, 1],
        transformer_depth_middle=-2,
        use_spatial_transformer=True,
        context_dim=768,
        num_heads=8,
        legacy=False,
        operations=comfy.ops.manual_cast,
    )


def _sd3() -> nn.Module:
    return comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper(
        input_size=None,
        in_channels=16,
        patch_size=2,
        depth=2,
        adm_in_channels=2048,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 128},
        },
        num_patches=16,
        pos_embed_max_size=4,
        pos_embed_scaling_factor=None,
        operations=comfy.ops.manual_cast,
    )


def _flux() -> nn.Module:
    return comfy.ldm.flux.model.Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        patch_size=2,
        vec_in_dim=768,
        context_in_dim=64,
        hidden_size=128,
        mlp_ratio=4.0,
        num_heads=1,
        depth=1,
        depth_single_blocks=1,
        axes_dim=[16, 56, 56],
        txt_ids_dims=[],
        theta=10000,
        qkv_bias=True,
        guidance_embed=False,
        operations=comfy.ops.manual_cast,
    )


def _wan() -> nn.Module:
    return comfy.ldm.wan.model.WanModel(
        model_type="t2v",
        dim=128,
        ffn_dim=256,
        num_layers=1,
        num_heads=1,
        text_dim=4096,
        text_len=16,
        in_dim=16,
        out_dim=16,
        operations=comfy.ops.manual_cast,
    )


FAMILIES = {
    "sd15": Family(_sd15, "BaseModel", (1, 4, 8, 8), 768),
    "sd3": Family(_sd3, "SD3", (1, 16, 8, 8), 4096, 2048),
    "flux": Family(_flux, "Flux", (1, 16, 8, 8), 64, 768),
    "wan": Family(_wan, "WAN21", (1, 16, 1, 8, 8), 4096),
}


def tiny_state_dict(
    family: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights of a bare diffusion model: matrices scaled to their width, norms near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, tensor in FAMILIES[family].build().state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim >= 2:
            noise = noise / max(1, tensor[0].numel()) ** 0.5
        else:
            noise = 0.1 * noise + float(key.endswith(("norm.weight", "scale")) or "norm" in key)
        weights[key] = noise.to(dtype)
    return weights


def random_vq_model(family: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> VQModel:
    """A tiny VQ model with random codes of every width, which costs no encoding."""
    weights = tiny_state_dict(family, dtype, seed)
    layers: dict[str, codecs.VQWeight] = {}
    for key in list(weights):
        shape = tuple(weights[key].shape)
        if key.endswith(".weight") and len(shape) in (2, 4):
            bits = (1, 2, 3, 4, 5, 6, 8)[len(layers) % 7]
            additive = bits < 8 and shape[1] % 8 == 0
            codec, bits = ("additive", bits) if additive else ("int8", 8)
            layers[key.removesuffix(".weight")] = random_weight(
                codec, bits, shape, dtype, seed + len(layers)
            )
            del weights[key]
    return VQModel(layers, weights, Source(family, None, "", {}, {}), {})


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
