"""Save what is vector-quantized the way ComfyUI's own save nodes do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP, VAE

from .... import calibration, checkpoint
from ....calibration import Calibration
from ....checkpoint.refusal import refuse
from ....errors import VQError
from ....model import VQModel
from ..model.loader import origin_of
from .full_checkpoint import clip_component, vae_component


def save_model(
    patcher: ModelPatcher,
    filename_prefix: str,
    prompt: Any = None,
    extra_pnginfo: dict[str, Any] | None = None,
    clip: CLIP | None = None,
    vae: VAE | None = None,
) -> str:
    """Write a numbered VQ checkpoint below the output folder.

    Args:
        filename_prefix: as in the host's save nodes.
        prompt, extra_pnginfo: the workflow to embed; None to leave it out. Left out as well if
            the host runs with ``--disable-metadata``.
        clip, vae: to save in the same file.

    Returns:
        The path of the file.

    Raises:
        VQError: the MODEL is not a VQ one, its weights are patched, or the file would lie outside
            the output folder; see also ``clip_component`` and ``vae_component``.
    """
    origin = origin_of(patcher)
    if origin is None:
        raise VQError(
            "this MODEL is not vector-quantized: put VQ Quantize Model before Save VQ Checkpoint, "
            "or save it with ComfyUI's Save Checkpoint"
        )
    if patcher.patches:
        raise VQError(
            f"this VQ MODEL carries patches (a LoRA, a merge) on {len(patcher.patches)} weights, which a VQ "
            "checkpoint cannot hold: put the LoRA before VQ Quantize Model to bake it in, or save without it "
            "and apply it after loading; save a merge with ModelSave, and quantize that file"
        )
    path = _new_path(filename_prefix)
    components = {} if clip is None else {checkpoint.CLIP: clip_component(clip)}
    if vae is not None:
        components[checkpoint.VAE] = vae_component(vae)
    workflow = _workflow(prompt, extra_pnginfo)
    checkpoint.save(path, origin.read(), components=components, extra=workflow)
    return path


def save_clip(
    clip: CLIP,
    filename_prefix: str,
    prompt: Any = None,
    extra_pnginfo: dict[str, Any] | None = None,
) -> str:
    """Write a numbered VQ file of text encoders below the output folder; see ``save_model``.

    Raises:
        VQError: the CLIP is not a VQ one, or cannot be saved; see ``clip_component``.
    """
    if origin_of(clip.patcher) is None:
        raise VQError(
            "this CLIP is not vector-quantized: put VQ Quantize CLIP before Save VQ CLIP, or save it with "
            "ComfyUI's Save CLIP"
        )
    path = _new_path(filename_prefix)
    components = {checkpoint.CLIP: clip_component(clip)}
    workflow = _workflow(prompt, extra_pnginfo)
    checkpoint.save(path, VQModel({}, {}), components=components, extra=workflow)
    return path


def save_calibration(
    found: Calibration,
    filename_prefix: str,
    prompt: Any = None,
    extra_pnginfo: dict[str, Any] | None = None,
) -> str:
    """Write a numbered calibration below the output folder; see ``save_model``.

    Raises:
        VQError: see ``calibration.save``.
    """
    path = _new_path(filename_prefix)
    calibration.save(path, found, extra=_workflow(prompt, extra_pnginfo))
    return path


def _new_path(filename_prefix: str) -> str:
    """A numbered file below the output folder. Raises VQError for a prefix that leads out of it."""
    output = folder_paths.get_output_directory()
    _refuse_outside(output, os.path.dirname(os.path.normpath(filename_prefix)), filename_prefix)
    folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, output)
    _refuse_outside(output, folder, filename_prefix)  # once the host has filled in dates
    return os.path.join(folder, f"{name}_{counter:05}_.safetensors")


def _refuse_outside(output: str, folder: str, prefix: str) -> None:
    """The host looks at names alone, and makes folders; a link may lead anywhere."""
    top = os.path.realpath(output)
    real = "" if "\0" in prefix else os.path.realpath(os.path.join(output, folder))
    name = os.path.basename(os.path.normpath(prefix))
    if not Path(real).is_relative_to(top) or name == os.pardir:
        refuse(
            output,
            "filename_prefix",
            f"{prefix!r}, which leads to {real or 'no folder'}",
            "a folder inside the output folder",
            "choose a prefix without '..' whose folders are not links to elsewhere",
        )


def _workflow(prompt: Any, extra_pnginfo: dict[str, Any] | None) -> dict[str, str]:
    if args.disable_metadata:
        return {}
    values = {**({} if prompt is None else {"prompt": prompt}), **(extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in values.items()}
