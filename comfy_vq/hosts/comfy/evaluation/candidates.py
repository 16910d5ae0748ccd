"""Model files of every kind as MODELs, with what they take as stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.model_detection import unet_prefix_from_state_dict
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .... import checkpoint
from ....checkpoint.gguf import gguf_size, is_gguf, load_gguf
from ....errors import VQError
from ....evaluation.bench import Size
from ...modes import split_compute
from ..model.compute_mode import compute_as
from ..model.loader import load_file
from .sizes import logical_numel

_FULL_CHECKPOINT = "model.diffusion_model."


def load_candidate(path: Path, dtype: torch.dtype | None = None) -> ModelPatcher:
    """The diffusion model in a file.

    Args:
        path: a VQ file; a GGUF file, which is decoded to float16; or whatever the host loads: a
            diffusion model of its own or a full checkpoint, dense or in a format of the host. After a
            VQ file, ``@int8`` and ``@auto`` say how to compute (see ``split_compute``).
        dtype: of the weights, instead of what the host chooses; not for a VQ file.

    Raises:
        VQError: the file cannot be read, or the host recognizes no diffusion model in it; it is to
            compute in int8 and no VQ file.
    """
    path, compute = split_compute(path)
    if checkpoint.is_vq(path):
        if dtype is not None:
            raise VQError(
                f"{path}: found a VQ file, expected a dense one, whose weights can be cast to {dtype}"
            )
        return compute_as(load_file(str(path)), compute)
    if compute != "exact":
        raise VQError(
            f"{path}@{compute}: found no VQ file, expected one: only these compute in int8"
        )
    tensors, metadata = (load_gguf(path), None) if is_gguf(path) else read(path)
    patcher = _load(path, tensors, metadata, {} if dtype is None else {"dtype": dtype})
    if patcher is None:
        raise VQError(
            f"{path}: this ComfyUI recognizes no diffusion model in it; check that the file is one, "
            "or update ComfyUI"
        )
    return patcher


def size_in(path: Path) -> Size:
    """Of the diffusion model in a file that ``load_candidate`` takes, all stored for it counted.

    Raises:
        VQError: the file cannot be read.
    """
    path, _ = split_compute(path)
    if checkpoint.is_vq(path):
        header = checkpoint.inspect(path)
        return Size(header.nbytes, header.numel)
    if is_gguf(path):
        return Size(*gguf_size(path))
    tensors, _ = read(path)
    prefix = unet_prefix_from_state_dict(tensors)
    inside = [tensor for key, tensor in tensors.items() if key.startswith(prefix)]
    inside = inside or list(tensors.values())
    nbytes = sum(tensor.nbytes for tensor in inside)
    if all(tensor.is_floating_point() and tensor.itemsize > 1 for tensor in inside):
        return Size(nbytes, sum(tensor.numel() for tensor in inside))
    # Several weights may be packed into one element, and there are scales: only the loaded model
    # knows what is a weight.
    return Size(nbytes, logical_numel(load_candidate(path)))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Tensors and metadata of a file, as the host reads it. Raises VQError if it cannot."""
    if not path.is_file():
        raise VQError(f"{path}: no such file; check the path")
    try:
        return comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    except Exception as error:  # the host has no error of its own for this
        reason = str(error).partition("\n")[0]
        raise VQError(f"{path}: ComfyUI cannot read it ({reason}); copy it again") from error


def is_full_checkpoint(keys: Iterable[str]) -> bool:
    """Whether tensors are named as in a file that may hold encoders beside the diffusion model."""
    return any(key.startswith(_FULL_CHECKPOINT) for key in keys)


def _load(
    path: Path, tensors: dict[str, Tensor], metadata: Any, options: dict[str, Any]
) -> ModelPatcher | None:
    try:
        if is_full_checkpoint(tensors):
            # Unlike the loader of bare models it minds the keys beside the diffusion model, which
            # say how that is sampled.
            loaded = comfy.sd.load_state_dict_guess_config(
                tensors,
                output_vae=False,
                output_clip=False,
                model_options=options,
                metadata=metadata,
            )
            return None if loaded is None else loaded[0]
        return comfy.sd.load_diffusion_model_state_dict(
            tensors, model_options=options, metadata=metadata
        )
    except (RuntimeError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise VQError(f"{path}: ComfyUI cannot load it: {reason}") from error
