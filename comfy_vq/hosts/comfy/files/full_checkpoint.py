"""A model, its text encoders and its autoencoder in one file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.sd
from comfy.model_patcher import ModelPatcher

from .... import checkpoint
from ....errors import VQError
from ....model import Component, Source, VQModel
from ..clip.encoders import ClipFile, load_clip, refuse_unbuildable
from ..clip.source import ClipSource
from ..clip.types import MODEL, about
from ..model.loader import load_file, origin_of
from ..model.source import checkpoint_path, file_metadata

_NUMBERS = ("tae_latent_channels",)
"""Metadata that the host's autoencoder wants as numbers, where a file has but strings."""


def load_full(path: str) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE from one file.

    Raises:
        VQError: the file is not a valid one, or lacks one of them.
    """
    header = checkpoint.inspect(path)
    held = [*([checkpoint.MODEL] if header.numel else []), *header.components]
    wanted = (checkpoint.MODEL, checkpoint.CLIP, checkpoint.VAE)
    missing = [name for name in wanted if name not in held]
    if missing:
        raise VQError(
            f"{path}: found {', '.join(held)}, expected {', '.join(wanted)}: without "
            f"{' and '.join(missing)} it is no full checkpoint; load it with Load VQ Checkpoint or Load VQ CLIP, and the "
            "rest from other files"
        )
    return load_file(path), load_clip(ClipFile(path)), load_vae(path)


def clip_component(clip: comfy.sd.CLIP) -> Component:
    """The text encoders of a CLIP for a file: coded if they are, dense otherwise.

    Patches on a dense CLIP (LoRA) are baked in.

    Raises:
        VQError: the CLIP is a VQ one and carries patches; or is of a kind that no file can hold.
    """
    origin = origin_of(clip.patcher)
    if origin is None:
        source = ClipSource(clip)
        dense = {key: source.read(key).contiguous() for key in source.keys()}  # noqa: SIM118
        component = Component(VQModel({}, dense, source.source), about(clip))
    else:
        if clip.patcher.patches:
            raise VQError(
                f"this VQ CLIP carries patches (such as a LoRA) on {len(clip.patcher.patches)} weights, which "
                "a VQ file cannot hold: put the LoRA before VQ Quantize CLIP to bake it in, or save without "
                "it and apply it after loading"
            )
        component = origin.read()
    refuse_unbuildable(component)
    return component


def vae_component(vae: comfy.sd.VAE) -> Component:
    """The autoencoder of a VAE for a file, in its own dtypes.

    Raises:
        VQError: the VAE is not a valid one.
    """
    vae.throw_exception_if_invalid()
    dense = {key: tensor.detach() for key, tensor in vae.get_sd().items()}
    path = checkpoint_path(vae.patcher)
    name = _class_of(vae)
    metadata = {**file_metadata(path), **_given_metadata(vae)}
    source = Source(name if path is None else path.rsplit("/", 1)[-1], metadata=metadata)
    return Component(VQModel({}, dense, source), {MODEL: name})


def load_vae(path: str) -> comfy.sd.VAE:
    """The VAE of a file.

    Raises:
        VQError: the file holds none, or this ComfyUI makes another kind of model of it.
    """
    component = checkpoint.load_component(path, checkpoint.VAE)
    weights, wanted = component.model.dense, component.about.get(MODEL)
    vae = comfy.sd.VAE(sd=dict(weights), metadata=_with_numbers(component.model.source.metadata))
    found = "nothing that it knows" if vae.first_stage_model is None else _class_of(vae)
    if found != wanted:
        raise VQError(
            f"{path}: autoencoder: found {wanted!r}, of which this ComfyUI makes {found!r}; update ComfyUI"
        )
    vae.patcher.cached_patcher_init = (load_vae_patcher, (path,))
    return vae


def load_vae_patcher(path: str, disable_dynamic: bool = False) -> ModelPatcher:
    """What the host calls to load the VAE anew."""
    return load_vae(path).patcher


def _class_of(vae: comfy.sd.VAE) -> str:
    return type(vae.first_stage_model).__name__


def _given_metadata(vae: comfy.sd.VAE) -> dict[str, str]:
    """What the host's loader node made the VAE with, beside a file's own."""
    _, arguments, *_ = vae.patcher.cached_patcher_init or (None, ())
    found = next((a for a in arguments if isinstance(a, dict)), {})
    return {key: str(value) for key, value in found.items() if key in _NUMBERS}


def _with_numbers(metadata: Mapping[str, str]) -> dict[str, Any]:
    return {key: int(value) if key in _NUMBERS else value for key, value in metadata.items()}
