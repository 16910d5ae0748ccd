"""What ComfyUI's own save nodes get from a VQ model: the dense model that it decodes to."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .layout import is_coded, pieces
from .ops import CodedWeight


class SavesDense:
    """Goes before a model class of the host: saved by core, coded weights come out decoded."""

    diffusion_model: torch.nn.Module

    def state_dict_for_saving(
        self, unet_state_dict: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        for name, layer in self.diffusion_model.named_modules():
            if isinstance(layer, CodedWeight) and is_coded(layer.weight):
                _replace_pieces(unet_state_dict, f"{name}.weight", layer)
        return super().state_dict_for_saving(unet_state_dict, *args, **kwargs)


def save_dense(model: torch.nn.Module) -> None:
    """Make core's save nodes write ``model``, a ``comfy.model_base.BaseModel``, decoded.

    They collect tensors through methods of the patcher, which clones rebuild, and of the model,
    which they share; so the model changes its class.
    """
    model.__class__ = _saving_class(type(model))


@cache
def _saving_class(cls: type) -> type:
    return type(cls.__name__, (SavesDense, cls), {"__module__": cls.__module__})


def _replace_pieces(state_dict: dict[str, Tensor], key: str, layer: CodedWeight) -> None:
    deferred = state_dict.get(key)
    for piece in pieces(layer.weight, key):
        state_dict.pop(piece, None)
    weight = _patched(deferred, layer)
    if is_coded(weight):
        weight = weight.dequantize()
    state_dict[key] = weight.to("cpu").contiguous()


def _patched(deferred: Any, layer: CodedWeight) -> Tensor:
    """The weight with the patches that a partly loaded model has yet to apply.

    For such a model the host hands over an object that knows the patcher and would apply them
    when written; a fully loaded one has them applied already.
    """
    caster = getattr(deferred, "caster", None)
    if caster is None:
        return layer.weight
    patcher = caster.model
    return patcher.patch_weight_to_device(
        caster.key, device_to=patcher.load_device, return_weight=True
    )
