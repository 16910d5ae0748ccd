"""The dense weights of a ComfyUI MODEL, one at a time, with its patches applied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import comfy.lora
import comfy.model_management
import comfy.ops
import safetensors
import torch
from comfy.model_patcher import ModelPatcher
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor, nn

from ....codecs.weight import RANKS
from ....errors import VQError
from ....model import Source
from .described import root_tensors, saved_names, with_config
from .loader import origin_of

_UNET = "diffusion_model."
_OF_A_MERGE = (
    "; of a merge, make the dense model the first, or save it with ModelSave and quantize that file"
)


@dataclass(frozen=True)
class HeldWeight:
    """A tensor of the diffusion model, where it is held."""

    key: str  # the host's name for it, within the diffusion model
    module: nn.Module
    name: str

    @property
    def tensor(self) -> Tensor:
        return getattr(self.module, self.name)

    @property
    def codable(self) -> bool:
        """Whether a layer of our operations class would hold it: those of the host's alone would.

        What a model holds in modules of its own, as bare parameters or in layers of torch's, stays
        dense: the host would have to decode it for good.
        """
        layer = isinstance(self.module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        # The host's layer for its own quantized formats is a Linear by name only.
        layer = layer or type(self.module).__name__ == "Linear"
        cast = isinstance(self.module, comfy.ops.CastWeightBiasOp)
        return layer and cast and self.name == "weight" and self.tensor.ndim in RANKS


class PatchedSource:
    """Weights of a model of the host's, each read and patched into a copy; the model is not changed.

    Subclasses say where the weights come from.

    Args:
        patcher: of the model.
        weights: what it holds, by the name to give it.
        prefix: of the weights' own keys, in the names of patches.
        stored: dtypes of half precision that tensors have in their file, by name.
    """

    source: Source

    def __init__(
        self,
        patcher: ModelPatcher,
        weights: dict[str, HeldWeight],
        prefix: str = "",
        stored: dict[str, torch.dtype] | None = None,
    ) -> None:
        self._patcher = patcher
        self._weights = weights
        self._prefix = prefix
        self._stored = stored or {}

    @property
    def patched(self) -> int:
        """How many of the weights carry patches."""
        return sum(bool(self._patches(weight)) for weight in self._weights.values())

    def keys(self) -> list[str]:
        return list(self._weights)

    def shape(self, key: str) -> tuple[int, ...]:
        weight = self._weights[key]
        shape = comfy.lora.calculate_shape(self._patches(weight), weight.tensor, weight.key)
        return tuple(shape)

    def dtype(self, key: str) -> torch.dtype:
        """The dtype that ``read`` gives.

        The weight's own, with two exceptions: what the host widened to float32 (as it does on a
        CPU) goes back to the half precision of its file; a patched 8-bit float becomes bfloat16.
        """
        weight = self._weights[key]
        dtype = weight.tensor.dtype
        if dtype == torch.float32:
            return self._stored.get(key, dtype)
        patched_float8 = bool(self._patches(weight)) and dtype.itemsize == 1
        return torch.bfloat16 if patched_float8 and dtype.is_floating_point else dtype

    def codable(self, key: str) -> bool:
        """Only weights of linear layers and convolutions can be held coded."""
        return self._weights[key].codable

    def layers(self) -> dict[str, nn.Module]:
        """The layers whose weights can be coded, by the weights' names without ``.weight``."""
        codable = {key: held for key, held in self._weights.items() if held.codable}
        return {key.removesuffix(".weight"): held.module for key, held in codable.items()}

    def module(self, key: str) -> str:
        """Path of the module that holds the weight, within the model."""
        return self._weights[key].key.rpartition(".")[0]

    def read(self, key: str) -> Tensor:
        """The weight, dequantized and patched; float32 while patches are applied."""
        weight = self._weights[key]
        tensor, patches = weight.tensor, self._patches(weight)
        if not patches:
            dense = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
            return dense.detach().to(self.dtype(key))
        device = comfy.model_management.get_torch_device()
        dense = tensor.detach().to(device=device, dtype=torch.float32, copy=True)
        if isinstance(dense, QuantizedTensor):
            dense = dense.dequantize()
        patched = comfy.lora.calculate_weight(patches, dense, self._prefix + weight.key)
        return patched.to(self.dtype(key))

    def _patches(self, weight: HeldWeight) -> list:
        return self._patcher.patches.get(self._prefix + weight.key, [])


class ModelSource(PatchedSource):
    """A source of weights for ``quantize``, under the names of the original checkpoint.

    The MODEL is not changed: it is unloaded, which restores weights that were patched in place,
    and each weight is read and patched into a copy.

    Args:
        patcher: holds float weights of any precision, or weights in formats of the host.

    Raises:
        VQError: the MODEL is quantized by us already, or carries a LoRA that runs beside the
            weights and cannot be baked into them.
    """

    def __init__(self, patcher: ModelPatcher) -> None:
        refuse_unfit(patcher, "MODEL", "model", "VQ Quantize Model", _OF_A_MERGE)
        comfy.model_management.unload_model_and_clones(patcher)
        held = {weight.key: weight for weight in held_weights(patcher.model.diffusion_model)}
        shapes = {key: weight.tensor.shape for key, weight in held.items()}
        names, prefix, root = saved_names(patcher, shapes)
        path = checkpoint_path(patcher)
        metadata, stored = _header(path, prefix)
        metadata = with_config(patcher, {names[key]: s for key, s in shapes.items()}, metadata)
        super().__init__(patcher, {names[k]: weight for k, weight in held.items()}, _UNET, stored)
        self.source = Source(
            name=os.path.basename(path) if path else type(patcher.model).__name__,
            sha256=None,
            prefix=prefix,
            metadata=metadata,
            root={**root, **root_tensors(patcher)},
        )


def refuse_unfit(patcher: ModelPatcher, what: str, dense: str, node: str, advice: str = "") -> None:
    """Raises VQError where a MODEL or CLIP is no dense one, or does more than its weights say.

    Args:
        what, dense: names in the message for what came in, and for what should have.
        node: that it came into.
        advice: of what else to do where it is quantized already.
    """
    if origin_of(patcher) is not None:
        raise VQError(
            f"this {what} is vector-quantized already: connect the dense {dense} to {node}, "
            f"quantizing twice would add the errors up{advice}"
        )
    if patcher.injections.get("bypass_lora"):
        raise VQError(
            f"this {what} carries a bypass LoRA, which runs beside the weights and cannot be baked into them: "
            f"put it after {node}, or load it with the ordinary LoRA loader before"
        )


def held_weights(model: nn.Module) -> Iterator[HeldWeight]:
    """All that is stored of a model, natively quantized weights as one each."""
    for path, module in model.named_modules():
        quantized = isinstance(module._parameters.get("weight"), QuantizedTensor)
        transient = module._non_persistent_buffers_set
        buffers = (item for item in module._buffers.items() if item[0] not in transient)
        for name, tensor in chain(module._parameters.items(), buffers):
            # What else a natively quantized layer holds describes its format.
            if tensor is None or (quantized and name not in ("weight", "bias")):
                continue
            yield HeldWeight(f"{path}.{name}" if path else name, module, name)


def checkpoint_path(patcher: ModelPatcher) -> str | None:
    """The file that the host loaded the model from, where it remembers one."""
    _, arguments, *_ = patcher.cached_patcher_init or (None, ())
    first = arguments[0] if arguments else None
    return first if isinstance(first, str) and os.path.isfile(first) else None


def file_metadata(path: str | None) -> dict[str, str]:
    """Metadata of a safetensors file, without the workflow that it was made by."""
    metadata, _ = _header(path, "")
    return {key: text for key, text in metadata.items() if key not in ("prompt", "workflow")}


def _header(path: str | None, prefix: str) -> tuple[dict[str, str], dict[str, torch.dtype]]:
    """Metadata of a checkpoint, and which of its tensors it holds in half precision."""
    if path is None or not path.lower().endswith((".safetensors", ".sft")):
        return {}, {}
    half = {"F16": torch.float16, "BF16": torch.bfloat16}
    with safetensors.safe_open(path, framework="pt") as file:
        keys = file.keys()
        held = {key.removeprefix(prefix): file.get_slice(key).get_dtype() for key in keys}
        stored = {key: half[name] for key, name in held.items() if name in half}
        return dict(file.metadata() or {}), stored
