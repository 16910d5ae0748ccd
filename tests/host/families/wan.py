"""Wan 2.1, Wan 2.2 and their variants."""

from __future__ import annotations

import json
from typing import Any

from .family import Family, hosted

_FRAMES = (1, 16, 2, 8, 8)

_WAN = {
    "image_model": "wan2.1",
    "dim": 128,
    "out_dim": 16,
    "num_heads": 1,
    "ffn_dim": 256,
    "num_layers": 2,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "in_dim": 16,
}


def _wan(
    model: str,
    kind: str,
    host_class: str,
    latent: tuple[int, ...] = _FRAMES,
    *,
    family: dict[str, Any] | None = None,
    **config: Any,
) -> Family:
    found = {**_WAN, "model_type": kind, **config}
    return hosted(model, found, host_class, latent, 4096, known_as="wan", **(family or {}))


FAMILIES: dict[str, Family] = {
    "wan-i2v": _wan("WAN21_I2V", "i2v", "WAN21", in_dim=36),
    "wan-flf2v": _wan("WAN21_I2V", "i2v", "WAN21", in_dim=36, flf_pos_embed_token_number=514),
    "wan-fun-control": _wan("WAN21_FunControl2V", "i2v", "WAN21", in_dim=48),
    "wan-2.2-i2v": _wan("WAN21_T2V", "t2v", "WAN21", in_dim=36),
    "wan-2.2-ti2v-5b": _wan("WAN22_T2V", "t2v", "WAN22", (1, 48, 2, 8, 8), in_dim=48, out_dim=48),
    "wan-vace": _wan("WAN21_Vace", "vace", "WAN21_Vace", vace_in_dim=96, vace_layers=1),
    "wan-camera": _wan("WAN21_Camera", "camera", "WAN21_Camera", in_dim=32),
    "wan-2.2-camera": _wan("WAN22_Camera", "camera_2.2", "WAN21_Camera", in_dim=36),
    "wan-2.2-s2v": _wan("WAN22_S2V", "s2v", "WAN22_S2V"),
    "wan-humo": _wan("WAN21_HuMo", "humo", "WAN21_HuMo", in_dim=36),
    "wan-2.2-animate": _wan("WAN22_Animate", "animate", "WAN22_Animate", in_dim=36, num_layers=5),
    "wan-scail": _wan("WAN21_SCAIL", "scail", "WAN21_SCAIL", in_dim=20),
    "wan-scail2": _wan("WAN21_SCAIL2", "scail2", "WAN21_SCAIL2", in_dim=20),
    "wan-dancer": _wan("WAN22_WanDancer", "wandancer", "WAN22_WanDancer", in_dim=36),
    "wan-causal-ar": _wan(
        "WAN21_CausalAR_T2V",
        "t2v",
        "WAN21_CausalAR",
        family={"metadata": {"config": json.dumps({"transformer": {"causal_ar": True}})}},
    ),
    "wan-flow-rvs": _wan(
        "WAN21_FlowRVS",
        "flow_rvs",
        "WAN21_FlowRVS",
        family={"metadata": {"config": json.dumps({"transformer": {"model_type": "flow_rvs"}})}},
    ),
}
