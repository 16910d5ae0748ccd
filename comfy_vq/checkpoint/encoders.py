"""The text encoders of one component, each by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..model import VQModel

_SEPARATOR = ".transformer."
"""What stands between an encoder's name and the key in the encoder's own file."""


def by_encoder(keys: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Keys of a CLIP by encoder: encoder -> key in its own file -> key; and those of no encoder."""
    encoders: dict[str, dict[str, str]] = {}
    others = []
    for key in keys:
        encoder, separator, own = key.partition(_SEPARATOR)
        if separator and "." not in encoder:
            encoders.setdefault(encoder, {})[own] = key
        else:
            others.append(key)
    return dict(sorted(encoders.items())), others


def split_encoders(model: VQModel) -> dict[str, VQModel]:
    """Each encoder with its keys as in its own file, its tokenizer's data among them."""
    weights = [f"{layer}.weight" for layer in model.layers]
    encoders, _ = by_encoder([*model.dense, *weights])
    parts = {}
    for name, keys in encoders.items():
        layers, dense = {}, {}
        for own, key in keys.items():
            if key in model.dense:
                dense[own] = model.dense[key]
            else:
                layers[own.removesuffix(".weight")] = model.layers[key.removesuffix(".weight")]
        tokenizer = {key.removeprefix(f"{name}."): t for key, t in model.source.root.items()}
        parts[name] = replace(
            model,
            layers=layers,
            dense={**dense, **tokenizer},
            source=replace(model.source, root={}),
        )
    return parts
