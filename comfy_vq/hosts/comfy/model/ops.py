"""Linear layers and convolutions on coded weights, as the operations class that ComfyUI builds a model with.

Everything about moving, offloading and patching weights is the host's: its cast function hands us
the weight on the right device, dense if patches had to be applied and coded otherwise. What is
coded is decoded to the compute dtype, multiplied with, and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import comfy.ops
import torch
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor
from torch.nn import Parameter

from .... import compute
from ....ahead import Slot
from ....lowrank import Beside
from .layout import coded, is_coded, pieces, settled
from .patches import WeightPatches

_COMPUTE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _piece(name: str) -> property:
    """A stored piece of the weight by its state-dict name, which the host resolves by getattr."""

    def read(layer: CodedWeight) -> Tensor:
        stored = pieces(layer.weight, "weight") if is_coded(layer.weight) else {}
        if name not in stored:
            raise AttributeError(f"{type(layer).__name__} holds no {name}")
        return stored[name]

    return property(read)


class Compute(Protocol):
    """Another way to multiply with a coded weight than to decode it to the input's dtype."""

    @property
    def active(self) -> bool:
        """Whether it wants to be asked at present."""
        ...

    def linear(self, input: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor | None:
        """The output of a linear layer, or None to have it computed in the usual way."""
        ...


class CodedWeight:
    """What a layer with a coded weight does differently; goes before the host's layer class.

    Until it is loaded, the weight is a meta tensor: the dense model is never built.
    """

    weight: Parameter
    bias: Parameter | None

    compute: Compute | None = None
    """Multiplies in another way where it can."""

    slot: Slot | None = None
    """The layer's place in the model, by which weights are decoded ahead."""

    patches: WeightPatches | None = None
    hook_patches: WeightPatches | None = None
    """Patches of the MODEL that is loaded, and of hooks that are in force."""

    owns_codebooks = True
    """Whether this layer lists its codebook set in the state dict. Of all layers that refer to a
    set one does, so that the host, which sums up state dicts, counts the set once."""

    weight_codes = _piece("weight_codes")
    weight_codebooks = _piece("weight_codebooks")
    weight_grid = _piece("weight_grid")

    def __init__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, device="meta", **kwargs)
        if self.bias is not None:
            self.bias = Parameter(torch.empty_like(self.bias, device=device or "cpu"))

    def forward(self, input: Tensor) -> Tensor:
        comfy.ops.run_every_op()  # raises where the user has cancelled
        dense = self._decoded_ahead(input)
        if dense is None:
            return self.forward_comfy_cast_weights(input)
        return self._add_beside(self._multiply_dense(input, dense, self._parameters["bias"]), input)

    def _decoded_ahead(self, input: Tensor) -> Tensor | None:
        """The dense weight, where nothing but decoding has to be done to it and that is done.

        The short way for weights that lie on the device. It skips the host's cast function, which
        costs the processor more than all else here.
        """
        slot, held = self.slot, self._parameters["weight"]
        if slot is None or self.weight_function or self.bias_function or not is_coded(held):
            return None
        if torch.compiler.is_compiling() or (input.requires_grad and torch.is_grad_enabled()):
            return None
        if self._needs_patching() or (self.compute is not None and self.compute.active):
            return None
        bias = self._parameters["bias"]
        if bias is not None and (bias.dtype is not input.dtype or bias.device != input.device):
            return None
        return slot.decoded(held, partial(coded, held), input.dtype, input.device)

    def forward_comfy_cast_weights(self, input: Tensor) -> Tensor:
        # Asked for its own dtype, a coded weight comes back as it is: a cast would copy the codes
        # only to relabel them. Functions on the weight need it dense, in the input's dtype.
        held = is_coded(self.weight) and not self.weight_function
        weight, bias, stream = comfy.ops.cast_bias_weight(
            self,
            dtype=self.weight.dtype if held else input.dtype,
            bias_dtype=input.dtype,
            device=input.device,
            offloadable=True,
        )
        if not is_coded(weight):
            output = self._multiply_dense(input, weight.to(input.dtype), bias)
        elif self._needs_patching():
            output = self._multiply_dense(input, self._patched(weight, input.dtype), bias)
        else:
            output = self._add_beside(self._multiply(input, weight, bias), input)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return output

    def _all_patches(self) -> tuple[WeightPatches, ...]:
        if self.patches is None and self.hook_patches is None:
            return ()
        both = (self.patches, self.hook_patches)
        return tuple(patches for patches in both if patches is not None and not patches.idle)

    def _needs_patching(self) -> bool:
        """Whether some patch cannot run beside the weight."""
        return any(patches.beside is None for patches in self._all_patches())

    def _patched(self, weight: QuantizedTensor, dtype: torch.dtype) -> Tensor:
        dense = coded(weight).decode(dtype)
        for patches in self._all_patches():
            dense = patches(dense)
        return dense

    def _add_beside(self, output: Tensor, input: Tensor) -> Tensor:
        for patches in self._all_patches():
            output = self._add(patches.beside, output, input)
        return output

    def convert_weight(self, weight: Tensor, inplace: bool = False, **_: Any) -> Tensor:
        """Called by the host before it applies patches to a weight."""
        return weight.dequantize() if is_coded(weight) else weight

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "weight"
        weight = state_dict.get(key)
        if is_coded(weight):
            if weight.shape != self.weight.shape:
                error_msgs.append(
                    f"{key} is coded for shape {tuple(weight.shape)}, "
                    f"but the model has {tuple(self.weight.shape)}"
                )
                return
            held = self.weight.dtype
            dtype = held if held in _COMPUTE_DTYPES else weight.dtype
            self.weight = Parameter(settled(weight, dtype), requires_grad=False)
            state_dict = {name: tensor for name, tensor in state_dict.items() if name != key}
        elif weight is not None and self.weight.is_meta:
            self.weight = Parameter(
                torch.empty_like(self.weight, device="cpu"), requires_grad=False
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if is_coded(weight) and key in missing_keys:
            missing_keys.remove(key)

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        """List plain pieces. The host's writers would store a coded tensor as raw memory."""
        if not is_coded(self.weight):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            return
        for name, piece in pieces(self.weight, prefix + "weight").items():
            if self.owns_codebooks or not name.endswith(("weight_codebooks", "weight_grid")):
                destination[name] = piece
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias if keep_vars else self.bias.detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodedWeight:
        """Move parameters by replacing them: torch would swap only the wrapper of a coded one."""
        if self.slot is not None:
            self.slot.ahead.reset()
        for name, parameter in self._parameters.items():
            if parameter is None or parameter.is_meta:
                continue
            # The host loads, runs and unloads in torch's inference mode or out of it ("Unload
            # models" is out of it). Moved in that mode, a tensor made out of it fits nowhere.
            inference = torch.is_inference_mode_enabled() and parameter.is_inference()
            with torch.inference_mode(inference):
                moved = fn(parameter)
                if moved.is_inference() and not inference:
                    moved = moved.clone()
                self._parameters[name] = Parameter(moved, requires_grad=False)
        return self


class Uncast:
    """A layer of the host's which, where a cast would change nothing, does without; goes before it.

    The host's cast function costs a fast graphics card's processor more than the layer itself.
    """

    _uncast: Callable[[Any, Tensor], Tensor]

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        plain = not self.weight_function and not self.bias_function and weight is not None
        if plain and weight.dtype is input.dtype and weight.device == input.device:
            comfy.ops.run_every_op()
            return self._uncast(input)
        return super().forward(input)


class Convolution(CodedWeight):
    """A convolution in any number of dimensions; goes before the host's layer class."""

    def _multiply(self, input: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor:
        # Through the layer's own method, which other extensions replace (seamless tiling).
        return compute.convolution(self._conv_forward, input, coded(weight), bias, self.groups)

    def _multiply_dense(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        output = self._conv_forward(input, weight, bias)
        return output.contiguous() if input.is_contiguous() else output

    def _add(self, beside: Beside, output: Tensor, input: Tensor) -> Tensor:
        return beside.add_convolution(output, input, self._conv_forward)


class VQOperations(comfy.ops.manual_cast):
    """The operations class of a VQ model."""

    class GroupNorm(Uncast, comfy.ops.manual_cast.GroupNorm):
        _uncast = torch.nn.GroupNorm.forward

    class LayerNorm(Uncast, comfy.ops.manual_cast.LayerNorm):
        _uncast = torch.nn.LayerNorm.forward

    class RMSNorm(Uncast, comfy.ops.manual_cast.RMSNorm):
        _uncast = torch.nn.RMSNorm.forward

    class Linear(CodedWeight, comfy.ops.manual_cast.Linear):
        def _multiply(self, input: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor:
            if self.compute is not None and self.compute.active:
                output = self.compute.linear(input, weight, bias)
                if output is not None:
                    return output
            return compute.linear(input, coded(weight), bias)

        def _multiply_dense(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return torch.nn.functional.linear(input, weight, bias)

        def _add(self, beside: Beside, output: Tensor, input: Tensor) -> Tensor:
            return beside.add_linear(output, input)

    class Conv1d(Convolution, comfy.ops.manual_cast.Conv1d):
        pass

    class Conv2d(Convolution, comfy.ops.manual_cast.Conv2d):
        pass

    class Conv3d(Convolution, comfy.ops.manual_cast.Conv3d):
        pass
