"""Diffusion transformers for video."""

from __future__ import annotations

import json
from typing import Any

import torch

from .family import Family, hosted

_FRAMES = (1, 16, 2, 8, 8)


_MASK = {"attention_mask": torch.ones(1, 16, dtype=torch.int64)}

_LTXV_SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "cross_attention_dim": 64,
    "caption_channels": 64,
    "num_layers": 2,
}

_LTXAV_SMALL = {
    **_LTXV_SMALL,
    "audio_attention_head_dim": 32,
    "audio_num_attention_heads": 2,
    "audio_cross_attention_dim": 64,
    "connector_attention_head_dim": 32,
    "connector_num_attention_heads": 2,
    "connector_num_layers": 1,
}

_COSMOS = {
    "image_model": "cosmos",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 4096,
    "block_config": "FA-CA-MLP",
    "concat_padding_mask": True,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "num_blocks": 28,
    "num_heads": 32,
    "extra_per_block_abs_pos_emb": True,
    "rope_h_extrapolation_ratio": 1.0,
    "rope_w_extrapolation_ratio": 1.0,
    "rope_t_extrapolation_ratio": 2.0,
    "extra_per_block_abs_pos_emb_type": "learnable",
}

_COSMOS_SMALLER = {
    "model_channels": 128,
    "num_blocks": 2,
    "num_heads": 1,
    "adaln_lora_dim": 64,
    "crossattn_emb_channels": 64,
    "max_img_h": 16,
    "max_img_w": 16,
    "max_frames": 16,
}

_PREDICT2 = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 2048,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "num_blocks": 28,
    "num_heads": 16,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "extra_h_extrapolation_ratio": 1.0,
    "extra_w_extrapolation_ratio": 1.0,
    "extra_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}

_PREDICT2_SMALLER = {
    "model_channels": 128,
    "num_blocks": 2,
    "num_heads": 1,
    "adaln_lora_dim": 64,
    "crossattn_emb_channels": 64,
}

_COGVIDEO: dict[str, Any] = {
    "image_model": "cogvideox",
    "num_attention_heads": 2,
    "attention_head_dim": 64,
    "time_embed_dim": 64,
    "num_layers": 2,
    "patch_size": 2,
    "text_embed_dim": 64,
    "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": True,
}


def _cogvideo(model: str, channels: int, **config: Any) -> Family:
    found = {**_COGVIDEO, "in_channels": channels, **config}
    return hosted(model, found, "CogVideoX", _FRAMES, 64, known_as="cogvideo")


FAMILIES: dict[str, Family] = {
    "ltxv": hosted(
        "LTXV",
        {"image_model": "ltxv", **_LTXV_SMALL},
        "LTXV",
        (1, 128, 2, 4, 4),
        64,
        given=_MASK,
        metadata={"config": json.dumps({"transformer": _LTXV_SMALL})},
        known_as="ltxv",
    ),
    "ltxav": hosted(
        "LTXAV",
        {"image_model": "ltxav", **_LTXAV_SMALL},
        "LTXAV",
        ((1, 128, 2, 4, 4), (1, 8, 4, 16)),
        128,
        given=_MASK,
        metadata={"config": json.dumps({"transformer": _LTXAV_SMALL})},
        known_as="ltxv",
    ),
    "cosmos-t2v": hosted(
        "CosmosT2V",
        {**_COSMOS, "in_channels": 16},
        "CosmosVideo",
        _FRAMES,
        64,
        smaller=_COSMOS_SMALLER,
        known_as="cosmos",
    ),
    "cosmos-i2v": hosted(
        "CosmosI2V",
        {**_COSMOS, "in_channels": 17},
        "CosmosVideo",
        _FRAMES,
        64,
        smaller=_COSMOS_SMALLER,
        known_as="cosmos",
    ),
    "cosmos-predict2-t2i": hosted(
        "CosmosT2IPredict2",
        {**_PREDICT2, "in_channels": 16},
        "CosmosPredict2",
        _FRAMES,
        64,
        smaller=_PREDICT2_SMALLER,
        known_as="cosmos",
    ),
    "cosmos-predict2-i2v": hosted(
        "CosmosI2VPredict2",
        {**_PREDICT2, "in_channels": 17},
        "CosmosPredict2",
        _FRAMES,
        64,
        smaller=_PREDICT2_SMALLER,
        known_as="cosmos",
    ),
    "anima": hosted(
        "Anima",
        {**_PREDICT2, "image_model": "anima", "in_channels": 16},
        "Anima",
        _FRAMES,
        64,
        smaller=_PREDICT2_SMALLER,
        known_as="cosmos",
    ),
    "mochi": hosted(
        "GenmoMochi",
        {
            "image_model": "mochi_preview",
            "depth": 48,
            "patch_size": 2,
            "num_heads": 24,
            "hidden_size_x": 3072,
            "hidden_size_y": 1536,
            "mlp_ratio_x": 4.0,
            "mlp_ratio_y": 4.0,
            "learn_sigma": False,
            "in_channels": 12,
            "qk_norm": True,
            "qkv_bias": False,
            "out_bias": True,
            "attn_drop": 0.0,
            "patch_embed_bias": True,
            "posenc_preserve_area": True,
            "timestep_mlp_bias": True,
            "attend_to_padding": False,
            "timestep_scale": 1000.0,
            "use_t5": True,
            "t5_feat_dim": 4096,
            "t5_token_length": 256,
            "rope_theta": 10000.0,
        },
        "GenmoMochi",
        (1, 12, 2, 8, 8),
        64,
        tokens=256,
        given={"attention_mask": torch.ones(1, 256, dtype=torch.int64)},
        smaller={
            "depth": 2,
            "num_heads": 2,
            "hidden_size_x": 128,
            "hidden_size_y": 64,
            "mlp_ratio_x": 96.0,
            "mlp_ratio_y": 96.0,
            "t5_feat_dim": 64,
        },
        known_as="mochi",
    ),
    "cogvideox": _cogvideo("CogVideoX_T2V", 16),
    "cogvideox-i2v": _cogvideo("CogVideoX_I2V", 32),
    "cogvideox-inpaint": _cogvideo("CogVideoX_Inpaint", 48),
    "seedvr2-3b": hosted(
        "SeedVR2",
        {
            "image_model": "seedvr2",
            "vid_dim": 2560,
            "heads": 20,
            "num_layers": 32,
            "norm_eps": 1.0e-05,
            "mlp_type": "swiglu",
            "vid_out_norm": True,
        },
        "SeedVR2",
        _FRAMES,
        5120,
        extra={"condition": (1, 17, 2, 8, 8)},
        smaller={"vid_dim": 128, "heads": 1},
        known_as="generic",
    ),
    "kandinsky5": hosted(
        "Kandinsky5",
        {
            "image_model": "kandinsky5",
            "model_dim": 128,
            "axes_dims": (16, 24, 24),
            "time_dim": 64,
            "ff_dim": 256,
            "visual_embed_dim": 132,
            "num_text_blocks": 1,
            "num_visual_blocks": 2,
        },
        "Kandinsky5",
        _FRAMES,
        3584,
        768,
        known_as="kandinsky5",
    ),
    "kandinsky5-image": hosted(
        "Kandinsky5Image",
        {
            "image_model": "kandinsky5",
            "model_dim": 2560,
            "axes_dims": (32, 48, 48),
            "rope_scale_factor": (1.0, 1.0, 1.0),
            "time_dim": 64,
            "ff_dim": 128,
            "visual_embed_dim": 64,
            "num_text_blocks": 1,
            "num_visual_blocks": 1,
        },
        "Kandinsky5Image",
        (1, 16, 1, 8, 8),
        3584,
        768,
        known_as="kandinsky5",
    ),
}
