"""The four families that most tests run on: a UNet, and three kinds of transformers."""

from __future__ import annotations

import comfy.ldm.flux.model
import comfy.ldm.modules.diffusionmodules.mmdit
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ldm.wan.model
import comfy.ops
from torch import nn

from .family import Family


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


def flux(width: int = 128, depth: int = 1, device: str | None = None) -> nn.Module:
    """Heads of 128; as many double blocks as single ones."""
    return comfy.ldm.flux.model.Flux(
        image_model="flux",
        in_channels=16,
        out_channels=16,
        patch_size=2,
        vec_in_dim=768,
        context_in_dim=64,
        hidden_size=width,
        mlp_ratio=4.0,
        num_heads=width // 128,
        depth=depth,
        depth_single_blocks=depth,
        axes_dim=[16, 56, 56],
        txt_ids_dims=[],
        theta=10000,
        qkv_bias=True,
        guidance_embed=False,
        operations=comfy.ops.manual_cast,
        device=device,
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
    "sd3": Family(_sd3, "SD3", (1, 16, 8, 8), 4096, 2048, known_as="sd3"),
    "flux": Family(flux, "Flux", (1, 16, 8, 8), 64, 768, known_as="flux"),
    "wan": Family(_wan, "WAN21", (1, 16, 1, 8, 8), 4096, known_as="wan"),
}
