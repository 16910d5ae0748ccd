"""Whole weights for those who read a VQ model's state dict in order to compute with it.

The state dict of a VQ model lists what is stored, because the host counts and moves memory by it.
Some parts of the host take tensors out of it as weights: ControlLora builds its network of them,
loaders of control networks copy embedders or add differences to them, nodes extract LoRAs. They get
a tensor of the weight's shape that decodes, and is patched, each time it is used: no dense copies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from comfy_kitchen.tensor import QuantizedTensor, register_layout_class
from torch import Tensor, nn

from .layout import VQLayout, is_coded, pieces
from .ops import CodedWeight
from .patches import WeightPatches

_LAYOUT = "ComfyVQPatchedLayout"


class PatchedLayout(VQLayout):
    """A coded weight and the patches that its layer applies."""

    @dataclass(frozen=True)
    class Params(VQLayout.Params):
        patches: tuple[WeightPatches, ...] = ()

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        # The host computes patches in float32 and rounds once.
        dense = super().dequantize(qdata, dataclasses.replace(params, orig_dtype=torch.float32))
        for patches in params.patches:
            dense = patches(dense)
        return dense.to(params.orig_dtype)


register_layout_class(_LAYOUT, PatchedLayout)


class WholeWeight(QuantizedTensor):
    """What stands in the state dict; layers of others copy from it or hold it.

    Attributes:
        stored_bytes: of all the pieces in whose place it stands; None where it stands for none.
    """

    stored_bytes: int | None = None

    @property
    def nbytes(self) -> int:
        """By it the host counts the memory of a model."""
        return super().nbytes if self.stored_bytes is None else self.stored_bytes

    def _copy_with(self, *args: Any, **kwargs: Any) -> WholeWeight:
        copy = super()._copy_with(*args, **kwargs)
        return WholeWeight(copy._qdata, copy._layout_cls, copy._params)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], QuantizedTensor):
            return args[0].copy_(args[1].dequantize())
        return super().__torch_dispatch__(func, types, args, kwargs)


def whole_weight(layer: CodedWeight) -> WholeWeight:
    """The coded weight of ``layer`` with its patches; shares the codes."""
    held = layer.weight
    patches = tuple(p for p in (layer.patches, layer.hook_patches) if p is not None and not p.idle)
    if not patches:
        return WholeWeight(held._qdata, held._layout_cls, held.params)
    fields = {f.name: getattr(held.params, f.name) for f in dataclasses.fields(held.params)}
    return WholeWeight(held._qdata, _LAYOUT, PatchedLayout.Params(**fields, patches=patches))


def with_whole_weights(
    state_dict: dict[str, Any], layers: Mapping[str, CodedWeight]
) -> dict[str, Any]:
    """``state_dict`` with weights in place of pieces, in its order.

    Args:
        layers: by the key of their weight; those whose key it has not are left alone.
    """
    found: dict[str, Any] = {
        key: layer for key, layer in layers.items() if key in state_dict and is_coded(layer.weight)
    }
    inner: set[str] = set()
    listed = dict(state_dict)
    for key, layer in found.items():
        stored = [name for name in pieces(layer.weight, key) if name in state_dict]
        listed[key] = whole_weight(layer)
        listed[key].stored_bytes = sum(state_dict[name].nbytes for name in stored)
        inner |= {name for name in stored if name != key}
    return {key: value for key, value in listed.items() if key not in inner}


def expose_weights(model: nn.Module) -> None:
    """Have every part of the diffusion model that is asked for a state dict of its own list weights.

    Single layers go on listing what they store: by that the host counts their memory.
    """
    for module in model.diffusion_model.modules():
        if not isinstance(module, CodedWeight):
            module.register_state_dict_post_hook(_list_weights)


def _list_weights(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: dict[str, Any]
) -> None:
    if prefix:  # asked for as a part of something larger
        return
    layers = {
        f"{name}.weight": layer
        for name, layer in module.named_modules()
        if isinstance(layer, CodedWeight)
    }
    listed = with_whole_weights(state_dict, layers)
    state_dict.clear()
    state_dict.update(listed)
