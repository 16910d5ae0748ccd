"""The host's MODEL object (a ``ModelPatcher``) where weights are coded.

The host bakes patches into weights that are loaded: it would hold those dense. Here a coded weight
stays coded. What can be added beside it is (LoRA); what needs the weight itself (DoRA, LoKr, a
merge, ...) is done each time it is decoded, as the host does where memory is short.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import comfy.lora
import torch
from comfy.hooks import EnumHookMode
from comfy.model_patcher import LowVramPatch, ModelPatcher
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from .layout import is_coded, pieces
from .ops import CodedWeight
from .patches import WeightPatches
from .whole import with_whole_weights

log = logging.getLogger(__name__)

_KEY = "comfy_vq_patcher"


def hold_codes(patcher: ModelPatcher) -> None:
    """Make ``patcher`` and its clones leave coded weights coded; they are known from now on."""
    if not hasattr(patcher.model, "comfy_vq_layers"):
        patcher.model.comfy_vq_layers = {
            f"{name}.weight": layer
            for name, layer in patcher.model.named_modules()
            if isinstance(layer, CodedWeight) and is_coded(layer.weight)
        }
    if isinstance(patcher, HoldsCodes):
        return
    # Made by the host, in several places and of several classes; so the object changes its class.
    patcher.__class__ = _holding_codes(type(patcher))
    for kind, callback in ((CallbacksMP.ON_LOAD, _on_load), (CallbacksMP.ON_CLONE, _on_clone)):
        patcher.remove_callbacks_with_key(kind, _KEY)
        patcher.add_callback_with_key(kind, _KEY, callback)


class HoldsCodes:
    """Goes before the host's class."""

    _made: tuple[Any, dict[str, WeightPatches]] = (None, {})

    @property
    def coded_layers(self) -> dict[str, CodedWeight]:
        """By the key of their weight."""
        return self.model.comfy_vq_layers

    def made_patches(self) -> dict[str, WeightPatches]:
        """The patches of coded weights by key, made once for each set of them."""
        if self._made[0] != self.patches_uuid:
            made = {
                key: WeightPatches(key, self.patches[key], layer.weight, _groups(layer))
                for key, layer in self.coded_layers.items()
                if key in self.patches
            }
            self._made = (self.patches_uuid, made)
        return self._made[1]

    def model_size(self) -> int:
        """Bytes of the model, and of what runs beside its weights."""
        made = self.made_patches().items()
        beside = ((key, patches.beside) for key, patches in made if patches.beside is not None)
        return super().model_size() + sum(b.numel * self._dtype(k).itemsize for k, b in beside)

    def patch_weight_to_device(
        self,
        key: str,
        device_to: torch.device | None = None,
        inplace_update: bool = False,
        return_weight: bool = False,
        force_cast: bool = False,
    ) -> Any:
        layer = self._coded(key)
        # A changed shape must be seen, by code that asks for it.
        if layer is None or (force_cast and not return_weight) or self._reshapes(key, layer):
            return super().patch_weight_to_device(
                key, device_to, inplace_update, return_weight, force_cast
            )
        return self._dense(key, layer, device_to) if return_weight else layer.weight

    def partially_unload(
        self, device_to: torch.device, memory_to_free: int = 0, force_patch_weights: bool = False
    ) -> int:
        before = self._beside_bytes()
        freed = super().partially_unload(device_to, memory_to_free, force_patch_weights)
        if not self.is_dynamic():
            more = self.attach_patches() - before
            self.model.model_loaded_weight_memory += more
            return freed - more
        if self.model.model_loaded_weight_memory == 0:  # all that it counts has been given back
            for patches in self.made_patches().values():
                if patches.beside is not None:
                    patches.beside.forget()
        return freed

    def unpatch_model(
        self, device_to: torch.device | None = None, unpatch_weights: bool = True
    ) -> None:
        super().unpatch_model(device_to, unpatch_weights)
        if unpatch_weights:
            for layer in self.coded_layers.values():
                _set_patches(layer, None)

    def attach_patches(self) -> int:
        """Give each coded layer of the loaded model the patches of this MODEL, and no others.

        Returns:
            Bytes on the model's device of what runs beside weights.
        """
        made = self.made_patches()
        for key, layer in self.coded_layers.items():
            patches = made.get(key) if is_coded(layer.weight) else None
            _set_patches(layer, patches)
            self._keep(key, layer, patches)
        return self._beside_bytes()

    def patch_hook_weight_to_device(
        self,
        hooks: Any,
        combined_patches: dict[str, list],
        key: str,
        original_weights: dict[str, Any],
        memory_counter: Any,
    ) -> None:
        layer = self._coded(key)
        if layer is None:
            super().patch_hook_weight_to_device(
                hooks, combined_patches, key, original_weights, memory_counter
            )
        elif key in combined_patches:
            original = {key: original_weights[key]} if key in original_weights else None
            patches = WeightPatches(
                key, combined_patches[key], layer.weight, _groups(layer), original
            )
            layer.hook_patches = patches
            self._keep(key, layer, patches)
            if self.hook_mode == EnumHookMode.MaxSpeed:
                # The host restores all or nothing of a group of hooks from what it has kept of it.
                self.cached_hook_patches.setdefault(hooks, {})[key] = (patches, None)

    def patch_cached_hook_weights(
        self, cached_weights: dict[str, Any], key: str, memory_counter: Any
    ) -> None:
        layer = self._coded(key)
        if layer is None:
            super().patch_cached_hook_weights(cached_weights, key, memory_counter)
        else:
            layer.hook_patches = cached_weights[key][0]

    def unpatch_hooks(self, whitelist_keys_set: set[str] | None = None) -> None:
        for key, layer in self.coded_layers.items():
            if not whitelist_keys_set or key in whitelist_keys_set:
                layer.hook_patches = None
        super().unpatch_hooks(whitelist_keys_set)

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """For nodes and loaders that compute with what they find in it."""
        return with_whole_weights(super().model_state_dict(filter_prefix), self.coded_layers)

    def model_state_dict_for_saving(
        self, model: nn.Module | None = None, prefix: str = ""
    ) -> dict[str, Tensor]:
        """Coded weights decoded: the host's writers would store them as raw memory."""
        state_dict = super().model_state_dict_for_saving(model, prefix)
        for key, layer in self.coded_layers.items():
            name = key.removeprefix(prefix)
            if name not in state_dict or not is_coded(layer.weight):
                continue
            for piece in pieces(layer.weight, name):
                state_dict.pop(piece, None)
            state_dict[name] = self._dense(key, layer, self.load_device).to("cpu").contiguous()
        return state_dict

    def _beside_bytes(self) -> int:
        held = (layer.patches for layer in self.coded_layers.values())
        return sum(p.beside.nbytes for p in held if p is not None and p.beside is not None)

    def _coded(self, key: str) -> CodedWeight | None:
        layer = self.coded_layers.get(key)
        return layer if layer is not None and is_coded(layer.weight) else None

    def _reshapes(self, key: str, layer: CodedWeight) -> bool:
        weight = layer.weight
        return comfy.lora.calculate_shape(self.patches.get(key, []), weight, key) != weight.shape

    def _dense(self, key: str, layer: CodedWeight, device: torch.device | None) -> Tensor:
        """The weight with the patches of this MODEL, in its own dtype."""
        held = layer.weight if device is None else layer.weight.to(device)
        patches = self.made_patches().get(key)
        if patches is None:
            return held.dequantize()
        return patches(held.to(torch.float32).dequantize()).to(held.dtype)

    def _dtype(self, key: str) -> torch.dtype:
        """In which the layer of a coded weight computes."""
        dtype = getattr(self.model, "manual_cast_dtype", None)
        return self.coded_layers[key].weight.dtype if dtype is None else dtype

    def _keep(self, key: str, layer: CodedWeight, patches: WeightPatches | None) -> None:
        """Hold what runs beside a weight ready on the device, unless the weight itself is not."""
        if patches is None or patches.beside is None:
            return
        if self.is_dynamic() or layer.weight.device == self.load_device:
            patches.beside.keep(self._dtype(key), self.load_device)
        else:
            patches.beside.forget()


@cache
def _holding_codes(cls: type[ModelPatcher]) -> type[ModelPatcher]:
    return type(cls.__name__, (HoldsCodes, cls), {"__module__": cls.__module__})


def _set_patches(layer: CodedWeight, patches: WeightPatches | None) -> None:
    """Also takes away what the host has put there for a weight that it believes it must patch."""
    former, layer.patches = layer.patches, patches
    if former is not None and former is not patches and former.beside is not None:
        former.beside.forget()
    layer.weight_lowvram_function = None
    others = [f for f in layer.weight_function if not isinstance(f, LowVramPatch | WeightPatches)]
    if others and patches is not None:
        # The wrappers of other extensions take the patched weight.
        layer.patches, others = None, [patches, *others]
    layer.weight_function = others


def _groups(layer: CodedWeight) -> int:
    return getattr(layer, "groups", 1)


def _on_load(
    patcher: ModelPatcher, device: torch.device, budget: int, force_patches: bool, full_load: bool
) -> None:
    beside = patcher.attach_patches()
    if not full_load:  # then the host has counted the whole size
        patcher.model.model_loaded_weight_memory += beside
    made = [patches for patches in patcher.made_patches().values() if not patches.idle]
    if made:
        count = sum(patches.beside is not None for patches in made)
        log.info(
            "VQ: patches run beside %d coded weights (%.1f MB); %d more are patched each time they are decoded",
            *(count, beside / 1e6, len(made) - count),
        )


def _on_clone(patcher: ModelPatcher, clone: ModelPatcher) -> None:
    """The host gives a clone that is not dynamic a class of its own, and any clone the whole size."""
    hold_codes(clone)
    clone.size = patcher.size
