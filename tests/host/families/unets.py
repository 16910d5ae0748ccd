"""UNets: the Stable Diffusion 1, 2 and XL kinds, their relatives, and Stable Cascade.

Widths of a UNet are fixed by detection (model_channels, context), the number of levels and blocks
is not, so these are as wide as the real ones and shallow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .family import Family, Weights, hosted


def unet_config(
    depth: Sequence[int],
    context: int,
    *,
    base: int = 320,
    channels: int = 4,
    levels: int = 1,
    widths: Sequence[int] | None = None,
    output_depth: Sequence[int] | None = None,
    middle: int = -2,
    **options: Any,
) -> dict[str, Any]:
    """What detection finds in a UNet, whose levels are all equally wide unless ``widths`` says so."""
    blocks = len(depth) // levels
    return {
        "image_size": 32,
        "use_checkpoint": False,
        "use_spatial_transformer": True,
        "legacy": False,
        "in_channels": channels,
        "out_channels": 4,
        "model_channels": base,
        "num_res_blocks": [blocks] * levels,
        "channel_mult": list(widths or [1] * levels),
        "transformer_depth": list(depth),
        "transformer_depth_output": list(output_depth or [0] * (len(depth) + levels)),
        "transformer_depth_middle": middle,
        "context_dim": context,
        "use_linear_in_transformer": context != 768,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        **options,
    }


def _classes(width: int) -> dict[str, Any]:
    return {"num_classes": "sequential", "adm_in_channels": width}


_TEMPORAL = {
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
    "use_temporal_resblock": True,
    "use_temporal_attention": True,
    "disable_temporal_crossattention": False,
}
_SVD_DEPTH = [1, 1, 1, 1, 1, 1, 0, 0]
_SDXL_DEPTH = [0, 0, 2, 2, 10, 10]
_LATENT = (1, 4, 8, 8)
_FOUR = {"levels": 4, "widths": (1, 2, 4, 4), "middle": 1, "output_depth": [*[1] * 9, 0, 0, 0]}
_SDXL = {
    "levels": 3,
    "widths": (1, 2, 4),
    "middle": 10,
    "output_depth": [0, 0, 0, 2, 2, 2, 10, 10, 10],
}
_REFINER = {
    "levels": 4,
    "widths": (1, 2, 4, 4),
    "middle": 4,
    "output_depth": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
}
_V_LAYER = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def _noisy_bias(weights: Weights) -> None:
    """The sign by which the host tells SD 2.x models that predict v."""
    weights[_V_LAYER] = (weights[_V_LAYER] - 1) * 3


def _sdxl(
    depth: Sequence[int],
    model: str,
    host_class: str = "SDXL",
    known_as: str = "sdxl",
    channels: int = 4,
    **options: Any,
) -> Family:
    config = unet_config(depth, 2048, channels=channels, levels=3, **_classes(2816))
    return hosted(model, config, host_class, _LATENT, 2048, 1280, known_as=known_as, **options)


def _full_sdxl(channels: int = 4) -> dict[str, Any]:
    return unet_config(_SDXL_DEPTH, 2048, channels=channels, **_SDXL, **_classes(2816))


def _sd(
    model: str,
    context: int,
    host_class: str = "BaseModel",
    channels: int = 4,
    adm: int = 0,
    known_as: str = "",
    **options: Any,
) -> Family:
    """A relative of Stable Diffusion 1 or 2: one block here, four levels at its real size."""
    more = {"channels": channels, **(_classes(adm) if adm else {})}
    return hosted(
        model,
        unet_config([1], context, **more),
        host_class,
        _LATENT,
        context,
        full=unet_config(_SVD_DEPTH, context, **_FOUR, **more),
        known_as=known_as or ("sd15" if context == 768 else "sd2"),
        **options,
    )


def _svd(model: str, adm: int) -> Family:
    def config(**sizes: Any) -> dict[str, Any]:
        return unet_config(_SVD_DEPTH, 1024, channels=8, **sizes, **_classes(adm), **_TEMPORAL)

    latent = (2, 4, 8, 8)
    small, full = config(levels=4), config(**_FOUR)
    return hosted(model, small, model, latent, 1024, tokens=1, full=full, known_as="svd")


FAMILIES: dict[str, Family] = {
    "sd15-inpaint": _sd("SD15", 768, channels=9),
    "sd15-instruct-pix2pix": _sd("SD15_instructpix2pix", 768, "SD15_instructpix2pix", channels=8),
    "zero123": _sd(
        "Stable_Zero123",
        768,
        "Stable_Zero123",
        channels=8,
        root={"cc_projection.weight": (768, 772), "cc_projection.bias": (768,)},
    ),
    "sd2": _sd("SD20", 1024),
    "sd2-v": hosted(
        "SD20",
        unet_config([1, *[0] * 10], 1024, output_depth=[1, *[0] * 11]),
        "BaseModel",
        _LATENT,
        1024,
        adjust=_noisy_bias,
        known_as="sd2",
    ),
    "sd2-inpaint": _sd("SD20", 1024, channels=9),
    "sd2-unclip-l": _sd("SD21UnclipL", 1024, "SD21UNCLIP", adm=1536, known_as="unet"),
    "sd2-unclip-h": _sd("SD21UnclipH", 1024, "SD21UNCLIP", adm=2048, known_as="unet"),
    "lotus": _sd("LotusD", 1024, "Lotus", adm=4, known_as="unet"),
    "sd-x4-upscaler": hosted(
        "SD_X4Upscaler",
        unet_config([0, 0, 0, 1], 1024, base=256, channels=7, levels=4),
        "SD_X4Upscaler",
        _LATENT,
        1024,
        known_as="unet",
    ),
    "sdxl": _sdxl(_SDXL_DEPTH, "SDXL", full=_full_sdxl()),
    "sdxl-inpaint": _sdxl(_SDXL_DEPTH, "SDXL", channels=9, full=_full_sdxl(9)),
    "sdxl-instruct-pix2pix": _sdxl(
        _SDXL_DEPTH,
        "SDXL_instructpix2pix",
        "SDXL_instructpix2pix",
        channels=8,
        full=_full_sdxl(8),
    ),
    "sdxl-refiner": hosted(
        "SDXLRefiner",
        unet_config([0, 0, 4, 4, 4, 4, 0, 0], 1280, base=384, levels=4, **_classes(2560)),
        "SDXLRefiner",
        _LATENT,
        1280,
        1280,
        full=unet_config([0, 0, 4, 4, 4, 4, 0, 0], 1280, base=384, **_REFINER, **_classes(2560)),
        known_as="sdxl-refiner",
    ),
    "ssd-1b": _sdxl([0, 0, 2, 2, 4, 4], "SSD1B"),
    "segmind-vega": _sdxl([0, 0, 1, 1, 2, 2], "Segmind_Vega"),
    "koala-700m": _sdxl([0, 2, 5], "KOALA_700M", known_as="unet"),
    "koala-1b": _sdxl([0, 2, 6], "KOALA_1B", known_as="unet"),
    "svd": _svd("SVD_img2vid", 768),
    "sv3d-u": _svd("SV3D_u", 256),
    "sv3d-p": _svd("SV3D_p", 1280),
    "stable-cascade-c": hosted(
        "Stable_Cascade_C",
        {"stable_cascade_stage": "c", "c_cond": 2048},
        "StableCascade_C",
        (1, 16, 8, 8),
        1280,
        1280,
        extra={"pooled_output": (1, 1, 1280)},
        smaller={"c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2], "blocks": [[1, 1], [1, 1]]},
        known_as="stable-cascade",
    ),
    "stable-cascade-b": hosted(
        "Stable_Cascade_B",
        {"stable_cascade_stage": "b"},
        "StableCascade_B",
        (1, 4, 16, 16),
        0,
        extra={"pooled_output": (1, 1, 1280)},
        smaller={
            "c_cond": 64,
            "c_hidden": [32, 64, 64, 64],
            "nhead": [-1, -1, 2, 2],
            "blocks": [[1, 1, 1, 1], [1, 1, 1, 1]],
            "block_repeat": [[1, 1, 1, 1], [1, 1, 1, 1]],
        },
        known_as="stable-cascade",
    ),
}
