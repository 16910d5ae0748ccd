"""Diffusion transformers for pictures."""

from __future__ import annotations

import torch

from .family import Family, hosted

_LATENT = (1, 16, 8, 8)


_SD35 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 64,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": 128},
    },
    "num_patches": 16,
    "pos_embed_max_size": 4,
    "qk_norm": "rms",
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [0],
}

_PIXART = {
    "num_heads": 16,
    "patch_size": 2,
    "hidden_size": 1152,
    "in_channels": 4,
    "depth": 28,
    "model_max_length": 300,
}

_PIXART_SMALLER = {"hidden_size": 192, "num_heads": 2, "depth": 2, "caption_channels": 64}


_MASKS = {"attention_mask": torch.ones(1, 77), "attention_mask_mt5xl": torch.ones(1, 256)}


_LLAMA = [*range(32), *[31] * 16]


FAMILIES: dict[str, Family] = {
    "sd35": hosted("SD3", _SD35, "SD3", _LATENT, 64, 64, known_as="sd3"),
    "auraflow": hosted(
        "AuraFlow",
        {"max_seq": 4096, "cond_seq_dim": 2048, "n_double_layers": 4, "n_layers": 36},
        "AuraFlow",
        (1, 4, 8, 8),
        2048,
        smaller={
            "dim": 128,
            "n_heads": 1,
            "global_conddim": 128,
            "max_seq": 64,
            "n_double_layers": 1,
            "n_layers": 2,
        },
        known_as="auraflow",
    ),
    "pixart-alpha": hosted(
        "PixArtAlpha",
        {
            **_PIXART,
            "image_model": "pixart_alpha",
            "micro_condition": True,
            "input_size": 128,
            "pe_interpolation": 2,
            "model_max_length": 120,
        },
        "PixArt",
        (1, 4, 64, 64),
        64,
        smaller=_PIXART_SMALLER,
        given={"width": 64, "height": 64},
        known_as="pixart",
    ),
    "pixart-sigma": hosted(
        "PixArtSigma",
        {**_PIXART, "image_model": "pixart_sigma", "micro_condition": False},
        "PixArt",
        (1, 4, 64, 64),
        64,
        smaller=_PIXART_SMALLER,
        known_as="pixart",
    ),
    "hunyuan-dit": hosted(
        "HunyuanDiT",
        {"image_model": "hydit", "depth": 2, "hidden_size": 256},
        "HunyuanDiT",
        (1, 4, 8, 8),
        1024,
        tokens=77,
        extra={"conditioning_mt5xl": (1, 256, 2048)},
        given=_MASKS,
        full={"image_model": "hydit", "depth": 40, "hidden_size": 1408, "mlp_ratio": 4.3637},
        known_as="hunyuan-dit",
    ),
    "hunyuan-dit-1.0": hosted(
        "HunyuanDiT1",
        {
            "image_model": "hydit1",
            "depth": 2,
            "hidden_size": 1408,
            "size_cond": True,
            "use_style_cond": True,
        },
        "HunyuanDiT",
        (1, 4, 8, 8),
        1024,
        tokens=77,
        extra={"conditioning_mt5xl": (1, 256, 2048)},
        given=_MASKS,
        known_as="hunyuan-dit",
    ),
    "qwen-image": hosted(
        "QwenImage",
        {"image_model": "qwen_image", "in_channels": 64, "num_layers": 60},
        "QwenImage",
        (1, 16, 1, 8, 8),
        64,
        smaller={"num_layers": 2, "num_attention_heads": 1, "joint_attention_dim": 64},
        known_as="qwen-image",
    ),
    "mage-flow": hosted(
        "MageFlow",
        {"image_model": "mage_flow", "in_channels": 128, "num_layers": 12},
        "MageFlow",
        (1, 128, 8, 8),
        2560,
        smaller={"num_layers": 2, "num_attention_heads": 1},
        known_as="qwen-image",
    ),
    "hidream": hosted(
        "HiDream",
        {
            "image_model": "hidream",
            "attention_head_dim": 128,
            "axes_dims_rope": [64, 32, 32],
            "caption_channels": [4096, 4096],
            "max_resolution": [128, 128],
            "in_channels": 16,
            "llama_layers": _LLAMA,
            "num_attention_heads": 20,
            "num_routed_experts": 4,
            "num_activated_experts": 2,
            "num_layers": 16,
            "num_single_layers": 32,
            "out_channels": 16,
            "patch_size": 2,
            "text_emb_dim": 2048,
        },
        "HiDream",
        _LATENT,
        64,
        64,
        extra={"conditioning_llama3": (1, 32, 16, 64)},
        smaller={
            "num_attention_heads": 1,
            "caption_channels": [64, 64],
            "num_layers": 1,
            "num_single_layers": 1,
            "llama_layers": [0, 31],
            "text_emb_dim": 64,
        },
        known_as="hidream",
    ),
    "lens": hosted(
        "Lens",
        {
            "image_model": "lens",
            "in_channels": 128,
            "out_channels": 32,
            "num_layers": 2,
            "num_attention_heads": 2,
            "enc_hidden_dim": 64,
            "multi_layer_encoder_feature": False,
            "selected_layer_index": (0,),
        },
        "Lens",
        (1, 128, 8, 8),
        64,
        known_as="qwen-image",
    ),
    "joyimage": hosted(
        "JoyImage",
        {
            "image_model": "joyimage",
            "in_channels": 16,
            "hidden_size": 128,
            "patch_size": [1, 2, 2],
            "num_layers": 2,
            "num_attention_heads": 1,
            "text_dim": 4096,
        },
        "JoyImage",
        (1, 16, 1, 8, 8),
        4096,
        known_as="dit",
    ),
    "ideogram4": hosted(
        "Ideogram4",
        {"image_model": "ideogram4", "in_channels": 128, "num_layers": 34},
        "Ideogram4",
        (1, 128, 8, 8),
        64,
        smaller={
            "num_layers": 2,
            "num_attention_heads": 1,
            "intermediate_size": 256,
            "adaln_dim": 64,
            "llm_features_dim": 64,
        },
        known_as="dit",
    ),
    "krea2": hosted(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 128,
            "channels": 16,
            "patch": 2,
            "layers": 2,
            "heads": 1,
            "kvheads": 1,
            "txtlayers": 2,
            "txtdim": 320,
        },
        "Krea2",
        (1, 16, 1, 8, 8),
        640,
        known_as="generic",
    ),
    "ernie-image": hosted(
        "ErnieImage",
        {"image_model": "ernie"},
        "ErnieImage",
        (1, 128, 8, 8),
        64,
        smaller={
            "hidden_size": 256,
            "num_attention_heads": 2,
            "num_layers": 2,
            "ffn_hidden_size": 256,
            "text_in_dim": 64,
        },
        known_as="dit",
    ),
    "hidream-o1": hosted(
        "HiDreamO1",
        {"image_model": "hidream_o1"},
        "HiDreamO1",
        (1, 3, 64, 64),
        0,
        given={"text_input_ids": torch.tensor([[5, 6, 7, 151673]])},
        smaller={
            "text_config_overrides": {
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
            },
            "vision_config_overrides": {
                "hidden_size": 64,
                "num_heads": 1,
                "intermediate_size": 128,
                "depth": 1,
                "num_position_embeddings": 64,
            },
        },
        known_as="generic",
    ),
}
