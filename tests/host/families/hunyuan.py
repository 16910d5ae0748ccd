"""HunyuanVideo and HunyuanImage."""

from __future__ import annotations

from typing import Any

from .family import Family, hosted

_FRAMES = (1, 16, 2, 8, 8)


_HUNYUAN: dict[str, Any] = {
    "image_model": "hunyuan_video",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}

_HUNYUAN15 = {
    "vec_in_dim": None,
    "guidance_embed": False,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
    "patch_size": [1, 1, 1],
    "out_channels": 32,
}

_BYT5 = {"conditioning_byt5small": (1, 8, 1472)}


def _hunyuan(
    model: str,
    host_class: str,
    latent: tuple[int, ...] = _FRAMES,
    pooled: int = 768,
    extra: dict[str, tuple[int, ...]] | None = None,
    **config: Any,
) -> Family:
    found = {**_HUNYUAN, **config}
    return hosted(
        model, found, host_class, latent, 64, pooled, extra=extra or {}, known_as="hunyuan-video"
    )


FAMILIES: dict[str, Family] = {
    "hunyuan-video": _hunyuan("HunyuanVideo", "HunyuanVideo"),
    "hunyuan-video-i2v": _hunyuan("HunyuanVideoI2V", "HunyuanVideoI2V", in_channels=33),
    "hunyuan-video-skyreels": _hunyuan(
        "HunyuanVideoSkyreelsI2V", "HunyuanVideoSkyreelsI2V", in_channels=32
    ),
    "hunyuan-video-1.5": _hunyuan(
        "HunyuanVideo15",
        "HunyuanVideo15",
        (1, 32, 2, 8, 8),
        768,
        _BYT5,
        in_channels=65,
        **_HUNYUAN15,
    ),
    "hunyuan-video-1.5-sr": _hunyuan(
        "HunyuanVideo15_SR_Distilled",
        "HunyuanVideo15_SR_Distilled",
        (1, 32, 2, 8, 8),
        768,
        _BYT5,
        in_channels=98,
        **_HUNYUAN15,
    ),
    "hunyuan-image-2.1": _hunyuan(
        "HunyuanImage21",
        "HunyuanImage21",
        (1, 64, 8, 8),
        0,
        _BYT5,
        in_channels=64,
        out_channels=64,
        patch_size=[1, 1],
        axes_dim=[64, 64],
        vec_in_dim=None,
        guidance_embed=False,
        byt5=True,
        meanflow=True,
    ),
    "hunyuan-image-2.1-refiner": _hunyuan(
        "HunyuanImage21Refiner",
        "HunyuanImage21Refiner",
        (1, 64, 1, 8, 8),
        0,
        in_channels=128,
        out_channels=64,
        patch_size=[1, 1, 1],
        vec_in_dim=None,
        guidance_embed=False,
    ),
}
