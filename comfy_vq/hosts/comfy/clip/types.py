"""Which text encoders a CLIP holds, in the host's own terms, so that a file can tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
from torch import nn

from ....errors import VQError

TYPE, MODEL, TOKENIZER = "type", "model", "tokenizer"
"""What a component's ``about`` says of a CLIP: the type that the host's loader is asked for, and the
classes that it then chooses."""

_TYPES = {
    "SD1ClipModel": "stable_diffusion",
    "SD2ClipModel": "stable_diffusion",
    "SDXLClipModel": "stable_diffusion",
    "SDXLRefinerClipModel": "stable_diffusion",
    "StableCascadeClipModel": "stable_cascade",
    "SD3ClipModel": "sd3",
    "FluxClipModel": "flux",
    "Flux2TEModel": "flux2",
    "MochiT5XXL": "mochi",
    "CogVideoXT5XXL": "cogvideox",
    "AuraT5Model": "stable_diffusion",
    "PixArtT5XXL": "pixart",
    "CosmosT5XXL": "cosmos",
    "WanT5Model": "wan",
    "SAT5Model": "stable_audio",
    "SAT5GemmaModel": "stable_audio",
    "AceT5Model": "ace",
    "ACE15TEModel": "ace",
    "LuminaModel": "lumina2",
    "PixelDiTGemma2TE": "pixeldit",
    "HunyuanVideoClipModel": "hunyuan_video",
    "HunyuanImageTEModel": "hunyuan_image",
    "HiDreamTEModel": "hidream",
    "QwenImageTEModel": "qwen_image",
    "LongCatImageTEModel": "longcat_image",
    "Omnigen2Model": "omnigen2",
    "OvisTEModel": "ovis",
    "ZImageTEModel": "lumina2",
    "AnimaTEModel": "stable_diffusion",
    "NewBieTEModel": "newbie",
    "Kandinsky5TEModel": "kandinsky5",
}
"""Of a class of the host's, the type that makes its loader choose it, for a CLIP that was not loaded by
type: one out of a full checkpoint."""


def about(clip: comfy.sd.CLIP) -> dict[str, str]:
    """What is to be known of a CLIP to build it again. ``type`` is left out where it is not known."""
    model, tokenizer = type(clip.cond_stage_model), type(clip.tokenizer)
    found = {MODEL: class_name(model), TOKENIZER: class_name(tokenizer)}
    clip_type = _asked_for(clip) or next(
        (_TYPES[cls.__name__] for cls in model.__mro__ if cls.__name__ in _TYPES), None
    )
    return found if clip_type is None else {**found, TYPE: clip_type}


def class_name(cls: type) -> str:
    """A class by a name that does not hold what a factory function made of it."""
    return next(c.__name__ for c in cls.__mro__ if "<locals>" not in c.__qualname__)


def clip_type(where: str, facts: Mapping[str, str]) -> Any:
    """The host's ``CLIPType`` of a CLIP.

    Args:
        where: the file, for messages.
        facts: see ``about``.

    Raises:
        VQError: the type is not known, or this ComfyUI does not know it.
    """
    name, model = facts.get(TYPE), facts.get(MODEL, "unknown")
    if name is None:
        raise VQError(
            f"{where}: found text encoders of ComfyUI's class {model}, of which it is not known how to "
            "build them from a file; VQ Quantize CLIP can be used within the workflow, without saving"
        )
    known = [member.name.lower() for member in comfy.sd.CLIPType]
    if name not in known:
        raise VQError(
            f"{where}: found text encoders of type {name!r} ({model}), expected one that this ComfyUI "
            f"knows: {', '.join(known)}; update ComfyUI"
        )
    return comfy.sd.CLIPType[name.upper()]


def _asked_for(clip: comfy.sd.CLIP) -> str | None:
    """The type that the host's loader was asked for, where it remembers one."""
    _, arguments, *_ = clip.patcher.cached_patcher_init or (None, ())
    found = next((a for a in arguments if isinstance(a, comfy.sd.CLIPType)), None)
    return None if found is None else found.name.lower()


def held(model: nn.Module) -> set[str]:
    """Names of all that a CLIP's model holds, coded weights as one each."""
    inner = ("weight_codes", "weight_codebooks", "weight_grid")
    return {key for key in model.state_dict() if not key.endswith(inner)}
