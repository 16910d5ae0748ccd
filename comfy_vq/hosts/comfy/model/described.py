"""What a checkpoint of a MODEL says about it, so that the host's loader knows it again."""

from __future__ import annotations

import json
from typing import Any

import comfy.latent_formats
import comfy.model_detection
import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

_PREFIXES = ("", "core.")
"""What the names that the host saves may lack for it to know them again. PixelDiT's checkpoints
begin with ``core.``, which the host strips when it loads them."""
_NOT_FOUND = ("dtype", "image_model", "audio_model")
"""Entries of a model's config that are no findings in a checkpoint."""


def saved_names(
    patcher: ModelPatcher, shapes: dict[str, torch.Size]
) -> tuple[dict[str, str], str, dict[str, Tensor]]:
    """The names under which the host would save the model, found out with empty tensors.

    Args:
        shapes: of all that the diffusion model holds, by the host's keys.

    Returns:
        host key -> saved name without the common prefix; that prefix; what the host saves beside
        the diffusion model to describe it.
    """
    empty = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    keys = {id(tensor): key for key, tensor in empty.items()}
    saved = patcher.model.state_dict_for_saving(dict(empty))
    full = {keys[id(tensor)]: name for name, tensor in saved.items() if id(tensor) in keys}
    root = {name: tensor for name, tensor in saved.items() if id(tensor) not in keys}
    prefixes = {name.removesuffix(key) for key, name in full.items()}
    if len(prefixes) != 1:
        # Renamed, not merely prefixed: keep what the host says.
        return full, "", root
    known = next((start for start in _PREFIXES if _detected(shapes, start, {}) is not None), "")
    return {key: known + key for key in full}, prefixes.pop(), root


def root_tensors(patcher: ModelPatcher) -> dict[str, Tensor]:
    """Tensors beside the diffusion model by which the host's loader tells what it is.

    They are how a model is sampled, and what the host requires of a checkpoint of this kind
    without saving it (the projection of Zero123).
    """
    beside = {}
    for key in getattr(patcher.model.model_config, "required_keys", ()):
        path, _, name = key.rpartition(".")
        if path and not path.startswith("{}"):
            beside[key] = getattr(patcher.model.get_submodule(path), name).detach().clone()
    return {**beside, **_sampling_keys(patcher)}


def with_config(
    patcher: ModelPatcher, shapes: dict[str, torch.Size], metadata: dict[str, str]
) -> dict[str, str]:
    """``metadata``, and in it what the host's detection cannot find in names and shapes.

    For some families (LTXV, Wan) the host reads numbers from the header of the checkpoint. A
    MODEL whose file is not known still has them.

    Args:
        shapes: of the diffusion model's tensors, by the names in a checkpoint.
        metadata: of the checkpoint that the MODEL came from, if there is one.
    """
    config = patcher.model.model_config
    found = _detected(shapes, "", metadata)
    if found is None or _agrees(found, config):
        return metadata
    wanted = {**config.unet_config, **_of_class(config)}
    more = {
        key: value
        for key, value in wanted.items()
        if key not in _NOT_FOUND and found.unet_config.get(key) != value and _is_json(value)
    }
    said = {**metadata, "config": json.dumps({"transformer": more})}
    again = _detected(shapes, "", said)
    return said if again is not None and _agrees(again, config) else metadata


def _agrees(found: Any, config: Any) -> bool:
    # What a class stands for, some of the host's models take out of their config once they know.
    own = {"dtype", *_of_class(config)}
    numbers = {key: value for key, value in config.unet_config.items() if key not in own}
    same = all(found.unet_config.get(key) == value for key, value in numbers.items())
    return type(found) is type(config) and same


def _of_class(config: Any) -> dict[str, Any]:
    """What detection has to find for a config of this class; nothing for another extension's."""
    return getattr(type(config), "unet_config", {})


def _detected(shapes: dict[str, torch.Size], prefix: str, metadata: dict[str, str]) -> Any:
    """The config that the host detects, or None."""
    empty = {prefix + key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    try:
        return comfy.model_detection.model_config_from_unet(empty, "", metadata=metadata)
    except (RuntimeError, ValueError, KeyError):  # it looked at values, which these have not
        return None


def _is_json(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except TypeError:
        return False


def _sampling_keys(patcher: ModelPatcher) -> dict[str, Tensor]:
    """The root keys by which checkpoints tell the host's loader how they are sampled."""
    latents = patcher.model.latent_format
    if isinstance(latents, comfy.latent_formats.SDXL_Playground_2_5):
        return {"edm_mean": latents.latents_mean.clone(), "edm_std": latents.latents_std.clone()}
    sampling = patcher.get_model_object("model_sampling")
    v_prediction = isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    if not v_prediction or isinstance(sampling, comfy.model_sampling.EDM):
        return {}
    if isinstance(sampling, comfy.model_sampling.ModelSamplingContinuousEDM):
        return {
            "edm_vpred.sigma_max": torch.tensor(float(sampling.sigma_max)),
            "edm_vpred.sigma_min": torch.tensor(float(sampling.sigma_min)),
        }
    # Only the names count.
    names = ["v_pred", "ztsnr"] if getattr(sampling, "zsnr", False) else ["v_pred"]
    return {name: torch.zeros(1) for name in names}
