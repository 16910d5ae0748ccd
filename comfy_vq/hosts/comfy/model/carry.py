"""What a quantized MODEL takes over from the MODEL that it was made of."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY, TORCH_COMPILE_KWARGS

from .loader import mark

log = logging.getLogger(__name__)


def carry_over(
    source: ModelPatcher,
    quantized: ModelPatcher,
    origin: Any,
    load_again: Callable[..., ModelPatcher] | None = None,
) -> ModelPatcher:
    """A clone of ``source`` around the model of ``quantized``.

    Everything that nodes have attached to ``source`` stays, by the host's own rules for clones:
    model options, wrappers, callbacks, object patches, hooks. Not so what belongs to its weights:
    patches (baked in by now), their backups, and a compiled copy of the dense model.

    Args:
        origin, load_again: see ``loader.mark``.
    """
    clone = source.clone(model_override=quantized.get_clone_model_override())
    clone.patches = {}
    clone.patches_uuid = uuid.uuid4()
    clone.clone_base_uuid = uuid.uuid4()
    clone.size = 0  # counted anew: the host hands the size of the dense model on
    clone.parent = None  # would keep the dense model in memory
    clone.load_device, clone.offload_device = quantized.load_device, quantized.offload_device
    clone.hook_backup = {}
    clone.cached_hook_patches = {}
    clone.current_hooks = None
    clone.is_injected = False
    _drop_dense_modules(clone)
    mark(clone, origin, load_again)
    return clone


def _drop_dense_modules(clone: ModelPatcher) -> None:
    """Leave out what would run the dense model in place of the quantized one."""
    if clone.get_wrappers(WrappersMP.APPLY_MODEL, COMPILE_KEY):
        clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
        clone.model_options.pop(TORCH_COMPILE_KWARGS, None)
        log.warning("VQ: torch.compile was left out; put it after VQ Quantize Model")
    for name, patch in list(clone.object_patches.items()):
        dense = isinstance(patch, torch.nn.Module) and any(True for _ in patch.parameters())
        if dense and name.startswith("diffusion_model"):
            del clone.object_patches[name]
            log.warning(
                "VQ: the replacement of %s was left out; put it after VQ Quantize Model", name
            )
