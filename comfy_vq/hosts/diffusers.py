"""The diffusers adapter: a `UNet2DConditionModel` that runs from coded weights.

Takes models of the Stable Diffusion family in their original key naming (`input_blocks...`), dense
or coded, and builds the network that diffusers has for them. Coded layers are decoded in each
forward; the dense model is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import LDM_UNET_KEY, convert_ldm_unet_checkpoint
from torch import Tensor, nn

from .. import compute
from ..codecs import VQWeight
from ..errors import VQError
from ..model import VQModel
from .unet_config import unet_config


class CodedLayer(nn.Module):
    """A layer whose weight is coded: its pieces are buffers, decoded in each forward.

    Args:
        weight: the coded weight.
        bias: float `[out]`, or None.
    """

    bias: nn.Parameter | None

    def __init__(self, weight: VQWeight, bias: Tensor | None) -> None:
        super().__init__()
        self._coded = weight
        for name, piece in weight.tensors.items():
            self.register_buffer(name, piece)
        if weight.codebooks is not None:
            self.register_buffer("codebooks", weight.codebooks.codebooks)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def weight(self) -> VQWeight:
        """The coded weight, on the device of the pieces."""
        pieces = {name: getattr(self, name) for name in self._coded.tensors}
        shared = self._coded.codebooks
        if shared is not None:
            shared = replace(shared, codebooks=self.get_buffer("codebooks"))
        return replace(self._coded, tensors=pieces, codebooks=shared)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodedLayer:
        # A cast of the network changes what is computed with, never what is stored.
        stored = {id(piece) for piece in self._buffers.values()}
        super()._apply(lambda t: t.to(fn(t).device) if id(t) in stored else fn(t), recurse)
        return self


class CodedLinear(CodedLayer):
    """`torch.nn.Linear` with a coded weight."""

    def forward(self, x: Tensor) -> Tensor:
        return compute.linear(x, self.weight(), self.bias)


class CodedConv2d(CodedLayer):
    """`torch.nn.Conv2d` with a coded weight; geometry is taken from the layer it stands for."""

    def __init__(self, weight: VQWeight, bias: Tensor | None, like: nn.Conv2d) -> None:
        super().__init__(weight, bias)
        self.geometry = (like.stride, like.padding, like.dilation, like.groups)

    def forward(self, x: Tensor) -> Tensor:
        return compute.convolution(self._convolve, x, self.weight(), self.bias, self.geometry[-1])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, *self.geometry)


def load_unet(
    model: VQModel | Mapping[str, Tensor], dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """Build the network of a coded or a dense model.

    Args:
        model: a `VQModel`, or a dense state dict in the original naming without a prefix.
        dtype: of the tensors that are not coded, and so of the arithmetic.

    Returns:
        The network in evaluation mode, on the device of its tensors. A dense one holds copies of
        the tensors given only where `dtype` differs.

    Raises:
        VQError: the keys or shapes are not those of a Stable Diffusion network.
    """
    coded = model.layers if isinstance(model, VQModel) else {}
    dense = model.dense if isinstance(model, VQModel) else model
    shapes = {key: tuple(tensor.shape) for key, tensor in dense.items()}
    shapes |= {f"{layer}.weight": weight.shape for layer, weight in coded.items()}
    config = unet_config(shapes)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    named = sources(unet, config, shapes)
    for name, key in named.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "weight" and key.removesuffix(".weight") in coded:
            bias = named.get(f"{path}.bias")
            _replace(
                unet,
                path,
                coded[key.removesuffix(".weight")],
                None if bias is None else dense[bias].to(dtype),
            )
        elif key in dense and not isinstance(unet.get_submodule(path), CodedLayer):
            parameter = nn.Parameter(dense[key].to(dtype))
            setattr(unet.get_submodule(path), leaf, parameter)
    return unet.eval()


def layers_of(unet: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, nn.Module]:
    """Linear layers and convolutions of a network of ``load_unet``, by their original names.

    Args:
        unet: of a dense model.
        shapes: of that model's tensors, by original keys.
    """
    config = unet_config(shapes)
    with torch.device("meta"):
        bare = UNet2DConditionModel(**config)
    named = (item for item in sources(bare, config, shapes).items() if item[0].endswith(".weight"))
    found = {k.removesuffix(".weight"): unet.get_submodule(n[: -len(".weight")]) for n, k in named}
    return {name: m for name, m in found.items() if isinstance(m, (nn.Linear, nn.Conv2d))}


def sources(
    unet: UNet2DConditionModel, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Original key of each of the network's parameters, weights before their biases."""
    named = {LDM_UNET_KEY + key: key for key in shapes}
    found = convert_ldm_unet_checkpoint(named, dict(config))
    expected = {name: tuple(parameter.shape) for name, parameter in unet.named_parameters()}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise VQError(
            f"the model has no tensor for {missing[0]} ({len(missing)} missing in all), which a "
            "Stable Diffusion network of its shape has; it is incomplete or of another family"
        )
    for name, shape in expected.items():
        if shapes[found[name]] != shape:
            raise VQError(
                f"tensor {found[name]} has shape {list(shapes[found[name]])}, expected "
                f"{list(shape)}; the model is damaged or of another family"
            )
    return {name: found[name] for name in sorted(expected, key=lambda n: n.endswith(".bias"))}


def _replace(unet: nn.Module, path: str, weight: VQWeight, bias: Tensor | None) -> None:
    """Put a coded layer where the network has a dense one."""
    old = unet.get_submodule(path)
    if isinstance(old, nn.Conv2d):
        new: CodedLayer = CodedConv2d(weight, bias, old)
    elif isinstance(old, nn.Linear):
        new = CodedLinear(weight, bias)
    else:
        raise VQError(f"{path} is a {type(old).__name__}; only Linear and Conv2d can be coded")
    parent, _, name = path.rpartition(".")
    setattr(unet.get_submodule(parent), name, new)
