"""A coded weight as ComfyUI holds one: a ``QuantizedTensor`` with a layout of ours.

The tensor reports the logical shape and dtype of the weight, so that model detection, LoRA key
mapping, cloning and merging see an ordinary weight. Any operation that the layout does not know
decodes first.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy_kitchen.tensor import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor.base import BaseLayoutParams
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ....codecs import CodebookSet, VQWeight
from ....errors import VQError

LAYOUT = "ComfyVQLayout"

# A tensor of a shared codebook set -> how to get at its copies, by device.
_COPIES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def shared_copy(codebooks: Tensor, device: torch.device) -> Tensor:
    """The one copy of a shared set on ``device``.

    Hundreds of layers refer to one set and are moved one by one; each would bring its own copy.
    A copy made from main memory lives as long as its original: layers that are streamed to a GPU,
    one after the other, all find it there.
    """
    device = torch.device(device)
    if codebooks.device == device:
        return codebooks
    copies: dict[torch.device, Callable[[], Tensor | None]]
    copies = _COPIES.setdefault(codebooks, {})
    copy = copies[device]() if device in copies else None
    if copy is None:
        made = copy = codebooks.to(device)
        streams = codebooks.device.type == "cpu"
        copies[device] = (lambda: made) if streams else weakref.ref(made)
        _COPIES.setdefault(made, {})[codebooks.device] = weakref.ref(codebooks)
    return copy


class VQLayout(QuantizedLayout):
    """Codes as the quantized data; scales, codebook set and specification as parameters."""

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        """What decoding needs beside the codes.

        ``scale`` (the host's name) holds the row scales. ``codebooks`` is shared between layers
        and never written: it is handed on where the host clones, moves or copies parameters.
        """

        spec: Any
        codebooks: Tensor | None
        set_name: str = ""
        step: float = 0.0
        offset: int = 0

        def _tensor_fields(self) -> list[str]:
            return ["scale"] if self.codebooks is None else ["scale", "codebooks"]

        def clone(self) -> VQLayout.Params:
            return dataclasses.replace(self, scale=self.scale.clone())

        def to_device(self, device: torch.device) -> VQLayout.Params:
            shared = None if self.codebooks is None else shared_copy(self.codebooks, device)
            return dataclasses.replace(self, scale=self.scale.to(device), codebooks=shared)

        def copy_from(self, src: VQLayout.Params, non_blocking: bool = False) -> None:
            self.scale.copy_(src.scale, non_blocking=non_blocking)
            shared = (
                None if src.codebooks is None else shared_copy(src.codebooks, self.scale.device)
            )
            for field in dataclasses.fields(self):
                if field.name not in ("scale", "codebooks"):
                    object.__setattr__(self, field.name, getattr(src, field.name))
            object.__setattr__(self, "codebooks", shared)

    @classmethod
    def quantize(cls, tensor: Tensor, **kwargs: Any) -> tuple[Tensor, Any]:
        """Refused: coding a weight takes seconds and belongs in VQ Quantize Model."""
        raise VQError(
            "a vector-quantized weight cannot be written over in place: "
            "apply the change to the dense model and put VQ Quantize Model after it"
        )

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        return _weight(qdata, params).decode(params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, ...]:
        return qtensor._qdata, qtensor.params.scale

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: Params) -> dict[str, Tensor]:
        """The one piece that stands under ``X.weight`` when the host saves.

        It makes each of these a parameter that requires gradients, which codes cannot be.
        """
        return {"": params.scale}


register_layout_class(LAYOUT, VQLayout)


class PendingWeight(QuantizedTensor):
    """A coded weight in a state dict on its way into a model.

    Our linear layers and convolutions take it as it is; any other module copies from it into its own dense
    parameter, which this class answers by decoding.
    """

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], QuantizedTensor):
            return args[0].copy_(args[1].dequantize())
        return super().__torch_dispatch__(func, types, args, kwargs)


def pending(weight: VQWeight) -> PendingWeight:
    """``weight`` for a state dict; shares its tensors."""
    shared = weight.codebooks
    params = VQLayout.Params(
        scale=weight.tensors["scales"],
        orig_dtype=weight.dtype if weight.dtype.itemsize > 1 else torch.bfloat16,
        orig_shape=tuple(weight.shape),
        spec=weight.spec,
        codebooks=None if shared is None else shared.codebooks,
        set_name="" if shared is None else shared.name,
        step=0.0 if shared is None else shared.step,
        offset=0 if shared is None else shared.offset,
    )
    return PendingWeight(weight.tensors["codes"], LAYOUT, params)


def settled(weight: QuantizedTensor, dtype: torch.dtype) -> QuantizedTensor:
    """The same coded weight as a layer holds it: decoded to ``dtype`` unless asked otherwise."""
    params = dataclasses.replace(weight.params, orig_dtype=dtype)
    return QuantizedTensor(weight._qdata, LAYOUT, params)


def is_coded(tensor: object) -> bool:
    """Whether ``tensor`` is a weight coded by us (and not one of the host's own formats)."""
    return isinstance(tensor, QuantizedTensor) and tensor._layout_cls == LAYOUT


def pieces(weight: QuantizedTensor, key: str) -> dict[str, Tensor]:
    """All that is stored of a weight as plain tensors, under ``key`` and names that begin with it."""
    params = weight.params
    stored = {key: params.scale, f"{key}_codes": weight._qdata}
    shared = _codebook_set(params)
    if shared is not None:
        stored[f"{key}_codebooks"] = shared.codebooks
        stored[f"{key}_grid"] = shared.grid
    return stored


def decode(weight: QuantizedTensor, dtype: torch.dtype) -> Tensor:
    """The dense weight in ``dtype``, on the device of its codes."""
    return coded(weight).decode(dtype)


def coded(weight: QuantizedTensor) -> VQWeight:
    """What ``weight`` holds, on the device where it is."""
    return _weight(weight._qdata, weight.params)


def _codebook_set(params: VQLayout.Params) -> CodebookSet | None:
    if params.codebooks is None:
        return None
    return CodebookSet(params.set_name, params.codebooks, params.step, params.offset)


def _weight(codes: Tensor, params: VQLayout.Params) -> VQWeight:
    pieces = {"codes": codes, "scales": params.scale}
    shape = tuple(params.orig_shape)
    return VQWeight(params.spec, shape, params.orig_dtype, pieces, _codebook_set(params))
