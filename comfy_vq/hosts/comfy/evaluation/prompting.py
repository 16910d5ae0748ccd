"""Texts to conditioning: by a text encoder of the host, or at random where there is none."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from .... import checkpoint
from ....checkpoint.gguf import is_gguf
from ....errors import VQError
from .bench import Prompt
from .candidates import is_full_checkpoint, read

Conditioning = list[Any]

_TOKENS = 77
_CONTEXT_WIDTHS = (
    "context_in_dim",  # Flux, Chroma, HunyuanVideo
    "context_dim",  # Stable Diffusion
    "text_dim",  # Wan
    "joint_attention_dim",  # Qwen-Image
    "cap_feat_dim",  # Lumina
    "caption_channels",  # PixArt, LTXV
    "crossattn_emb_channels",  # Cosmos
    "text_feat_dim",  # OmniGen
    "text_embed_dim",
    "in_text_dim",  # Kandinsky
)
_POOLED_WIDTHS = ("vec_in_dim", "in_text_dim2", "adm_in_channels")
_SDXL_POOLED = 1280


def encoded_prompts(clip: Any, texts: Sequence[str], seed: int) -> list[Prompt]:
    """Texts as a CLIP of the host encodes them; the empty text is the negative one."""
    return _prompts(
        lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text)), texts, seed
    )


def random_prompts(model: ModelPatcher, texts: Sequence[str], seed: int) -> list[Prompt]:
    """Noise in the shapes that a model takes, the same for a text in every run.

    Raises:
        VQError: how wide the model's conditioning is cannot be told from its settings.
    """
    network = type(model.model.diffusion_model)
    parameters = inspect.signature(network.__init__).parameters.values()
    settings = {p.name: p.default for p in parameters} | model.model.model_config.unet_config
    embedder = settings.get("context_embedder_config") or {}  # Stable Diffusion 3
    width = embedder.get("params", {}).get("in_features") or _first(settings, _CONTEXT_WIDTHS)
    if width is None:
        raise VQError(
            f"{type(model.model).__name__}: the width of its conditioning is not known; give its "
            "text encoders with --clip and --clip-type"
        )
    pooled = _first(settings, _POOLED_WIDTHS)
    if isinstance(model.model, (comfy.model_base.SDXL, comfy.model_base.SDXLRefiner)):
        pooled = _SDXL_POOLED  # the rest of what it takes is made of the sizes of the picture
    return _prompts(lambda text: _noise(text, width, pooled), texts, seed)


def encoders_in(path: Path) -> tuple[Any, Any]:
    """The CLIP and the VAE in a full checkpoint; None for each that is not there."""
    if checkpoint.is_vq(path) or is_gguf(path):
        return None, None
    tensors, metadata = read(path)
    if not is_full_checkpoint(tensors):
        return None, None
    loaded = comfy.sd.load_state_dict_guess_config(tensors, output_model=False, metadata=metadata)
    _, clip, vae, _ = loaded or (None, None, None, None)
    return clip, None if getattr(vae, "first_stage_model", None) is None else vae


def load_clip(paths: Sequence[Path], kind: str) -> Any:
    """Text encoders from files, as the CLIPLoader nodes do.

    Raises:
        VQError: the host knows no such type.
    """
    kinds = comfy.sd.CLIPType.__members__
    if kind.upper() not in kinds:
        raise VQError(f"--clip-type: found {kind!r}, expected one of {', '.join(kinds).lower()}")
    return comfy.sd.load_clip([str(path) for path in paths], clip_type=kinds[kind.upper()])


def load_vae(path: Path) -> Any:
    """An autoencoder from a file, as VAELoader does. Raises VQError if it cannot be read."""
    tensors, metadata = read(path)
    return comfy.sd.VAE(sd=tensors, metadata=metadata)


def _prompts(embed: Callable[[str], Conditioning], texts: Sequence[str], seed: int) -> list[Prompt]:
    with torch.inference_mode():
        negative = embed("")
        return [Prompt(text, embed(text), negative, seed + i) for i, text in enumerate(texts)]


def _noise(text: str, width: int, pooled: int | None) -> Conditioning:
    digest = hashlib.sha256(text.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    details = {}
    if pooled:
        details["pooled_output"] = torch.randn(1, pooled, generator=generator)
    return [[torch.randn(1, _TOKENS, width, generator=generator), details]]


def _first(settings: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((settings[n] for n in names if isinstance(settings.get(n), int)), None)
