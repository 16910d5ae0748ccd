"""Families of diffusion transformers, and whatever else is no UNet, by the names of their layers."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ENDS = (
    r"(final_layer|final_linear|head\.head|proj_out|norm_out|img_in|x_embedder|patch_embedding"
    r"|patch_embed|pos_embed|patchify_proj|init_x_linear|input_proj|adaln_single)(\.|$)"
)
_SIGNATURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("chroma", (r"distilled_guidance_layer\.",)),
    ("flux2", (r"double_stream_modulation_img\.",)),
    ("hunyuan-video", (r"txt_in\.individual_token_refiner\.",)),
    ("hunyuan3d", (r"latent_in$", r"double_blocks\.\d+\.img_attn")),
    ("hunyuan3d", (r"blocks\.\d+\.attn1\.to_q$", r"blocks\.\d+\.moe\.experts\.")),
    ("flux", (r"double_blocks\.\d+\.img_attn", r"single_blocks\.\d+\.linear1$")),
    ("sd3", (r"joint_blocks\.\d+\.x_block\.",)),
    ("auraflow", (r"cond_seq_linear$", r"double_layers\.\d+\.attn\.w1q$")),
    ("cosmos", (r"blocks\.\d+\.adaln_modulation_cross_attn\.",)),
    ("cosmos", (r"blocks\.block\d+\.blocks\.\d+\.block\.",)),
    ("wan", (r"blocks\.\d+\.cross_attn\.k$", r"head\.head$")),
    ("pixart", (r"blocks\.\d+\.cross_attn\.kv_linear$", r"t_block\.")),
    ("hunyuan-dit", (r"mlp_t5\.", r"blocks\.\d+\.attn1\.Wqkv$")),
    ("lumina2", (r"layers\.\d+\.feed_forward\.w1$", r"context_refiner\.\d+\.feed_forward\.w1$")),
    ("omnigen2", (r"context_refiner\.\d+\.feed_forward\.linear_1$",)),
    ("qwen-image", (r"transformer_blocks\.\d+\.img_mlp\.", r"transformer_blocks\.\d+\.txt_mod\.")),
    ("ltxv", (r"patchify_proj$", r"adaln_single\.")),
    ("hidream", (r"double_stream_blocks\.\d+\.block\.",)),
    ("mochi", (r"t5_yproj$",)),
    ("cogvideo", (r"patch_embed\.text_proj$",)),
    ("kandinsky5", (r"visual_transformer_blocks\.\d+\.",)),
    ("stable-cascade", (r"(down|up)_blocks\.\d+\.\d+\.channelwise\.",)),
    ("stable-audio", (r"transformer\.layers\.\d+\.self_attn\.to_qkv$", r"postprocess_conv$")),
    ("ace-step", (r"(encoder\.)?lyric_encoder\.",)),
    (
        "dit",
        (
            # a numbered stack of blocks, and something at its ends
            r"(double_blocks|joint_blocks|double_layers|blocks|transformer_blocks|layers)\.\d+\.",
            _ENDS,
        ),
    ),
)
"""A family, and what the names of a model's layers begin with; each pattern is found in one of them.
The first family that fits counts."""
_COMPILED = [
    (family, [re.compile(pattern) for pattern in patterns]) for family, patterns in _SIGNATURES
]


def transformer_family(names: Iterable[str]) -> str | None:
    """The family of a model's layers, named as in checkpoints of it; None where none fits."""
    names = list(names)
    for family, patterns in _COMPILED:
        if all(any(map(pattern.match, names)) for pattern in patterns):
            return family
    return None
