"""Flux and its relatives."""

from __future__ import annotations

from typing import Any

from .family import Family, hosted

_LATENT = (1, 16, 8, 8)

_FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "txt_ids_dims": [],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "yak_mlp": False,
    "txt_norm": False,
}

_FLUX2 = {
    **_FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "mlp_ratio": 3.0,
    "axes_dim": [32, 32, 32, 32],
    "txt_ids_dims": [3],
    "theta": 2000,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}

_CHROMA = {
    key: value
    for key, value in _FLUX.items()
    if key not in ("guidance_embed", "yak_mlp", "txt_norm")
} | {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "hidden_size": 3072,
    "context_in_dim": 4096,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "vec_in_dim": None,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
}

_CHROMA_SMALLER: dict[str, Any] = {
    "hidden_size": 128,
    "context_in_dim": 64,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 2,
    "out_dim": 128,
    "hidden_dim": 64,
    "n_layers": 2,
}

_RADIANCE = {
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 4,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": None,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}


FAMILIES: dict[str, Family] = {
    "flux-dev": hosted("Flux", _FLUX, "Flux", _LATENT, 64, 64, known_as="flux"),
    "flux-fill": hosted(
        "FluxInpaint", {**_FLUX, "in_channels": 96}, "Flux", _LATENT, 64, 64, known_as="flux"
    ),
    "flux-control": hosted(
        "Flux", {**_FLUX, "in_channels": 32}, "Flux", _LATENT, 64, 64, known_as="flux"
    ),
    "flux2": hosted("Flux2", _FLUX2, "Flux2", (1, 128, 8, 8), 64, known_as="flux2"),
    "longcat-image": hosted(
        "LongCatImage",
        {
            **_FLUX,
            "vec_in_dim": None,
            "context_in_dim": 3584,
            "guidance_embed": False,
            "txt_ids_dims": [1, 2],
        },
        "LongCatImage",
        _LATENT,
        3584,
        known_as="flux",
    ),
    "ovis-image": hosted(
        "FluxSchnell",
        {
            **_FLUX,
            "vec_in_dim": None,
            "guidance_embed": False,
            "yak_mlp": True,
            "txt_norm": True,
            "txt_ids_dims": [1, 2],
        },
        "Flux",
        _LATENT,
        64,
        known_as="flux",
    ),
    "chroma": hosted(
        "Chroma", _CHROMA, "Chroma", _LATENT, 64, smaller=_CHROMA_SMALLER, known_as="chroma"
    ),
    "chroma-radiance": hosted(
        "ChromaRadiance",
        {**_CHROMA, **_RADIANCE},
        "ChromaRadiance",
        (1, 3, 32, 32),
        64,
        smaller={**_CHROMA_SMALLER, "nerf_depth": 2},
        known_as="chroma",
    ),
}
