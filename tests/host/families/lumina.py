"""Lumina 2 and its relatives."""

from __future__ import annotations

import torch

from .family import Family, hosted

_LATENT = (1, 16, 8, 8)


_LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 26,
    "qk_norm": True,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}

_Z_IMAGE = {
    **_LUMINA,
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}


_MASK = {"attention_mask": torch.ones(1, 16, dtype=torch.int64)}


FAMILIES: dict[str, Family] = {
    "lumina2": hosted(
        "Lumina2",
        _LUMINA,
        "Lumina2",
        _LATENT,
        64,
        smaller={
            "dim": 192,
            "cap_feat_dim": 64,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 2,
            "n_kv_heads": 1,
        },
        known_as="lumina2",
    ),
    "z-image": hosted(
        "ZImage",
        _Z_IMAGE,
        "Lumina2",
        _LATENT,
        64,
        smaller={
            "cap_feat_dim": 64,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_kv_heads": 1,
            "ffn_dim_multiplier": 0.01,
        },
        known_as="lumina2",
    ),
    "omnigen2": hosted(
        "Omnigen2",
        {
            "image_model": "omnigen2",
            "axes_dim_rope": [40, 40, 40],
            "axes_lens": [1024, 1664, 1664],
            "ffn_dim_multiplier": None,
            "hidden_size": 2520,
            "in_channels": 16,
            "multiple_of": 256,
            "norm_eps": 1e-05,
            "num_attention_heads": 21,
            "num_kv_heads": 7,
            "num_layers": 32,
            "num_refiner_layers": 2,
            "out_channels": None,
            "patch_size": 2,
            "text_feat_dim": 2048,
            "timestep_scale": 1000.0,
        },
        "Omnigen2",
        _LATENT,
        64,
        given=_MASK,
        smaller={
            "hidden_size": 240,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "num_layers": 2,
            "num_refiner_layers": 1,
            "text_feat_dim": 64,
        },
        known_as="omnigen2",
    ),
    "boogu": hosted(
        "Boogu",
        {
            "image_model": "boogu",
            "hidden_size": 3360,
            "num_layers": 32,
            "num_double_stream_layers": 8,
            "num_refiner_layers": 2,
            "instruction_feat_dim": 4096,
        },
        "Boogu",
        _LATENT,
        64,
        given=_MASK,
        smaller={
            "hidden_size": 240,
            "num_layers": 1,
            "num_double_stream_layers": 1,
            "num_refiner_layers": 1,
            "instruction_feat_dim": 64,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
        },
        known_as="omnigen2",
    ),
    "z-image-pixel": hosted(
        "ZImagePixelSpace",
        {
            **_Z_IMAGE,
            "image_model": "zimage_pixel",
            "patch_size": 16,
            "in_channels": 3,
            "decoder_in_channels": 768,
            "decoder_hidden_size": 3840,
            "decoder_num_res_blocks": 4,
            "decoder_max_freqs": 8,
        },
        "ZImagePixelSpace",
        (1, 3, 32, 32),
        64,
        smaller={
            "cap_feat_dim": 64,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_kv_heads": 1,
            "ffn_dim_multiplier": 0.01,
            "decoder_hidden_size": 64,
            "decoder_num_res_blocks": 1,
        },
        known_as="lumina2",
    ),
}
