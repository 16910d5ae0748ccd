"""Where a network of diffusers holds what a VQ model is made of, for fine-tuning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from ..compute import Multiply
from ..finetune.student import Sites
from ..model import VQModel
from .diffusers import CodedConv2d, CodedLayer, load_unet, sources
from .unet_config import unet_config


def sites_of(model: VQModel, device: torch.device | str = "cpu") -> Sites:
    """A network of this model in float32, and where it holds the model's layers and tensors."""
    shapes = {key: tuple(tensor.shape) for key, tensor in model.dense.items()}
    shapes |= {f"{layer}.weight": weight.shape for layer, weight in model.layers.items()}
    config = unet_config(shapes)
    with torch.device("meta"):
        named = sources(UNet2DConditionModel(**config), config, shapes)
    network = load_unet(model)
    nn.Module.to(network, device)
    coded: dict[str, tuple[nn.Module, Multiply]] = {}
    dense: dict[str, tuple[nn.Module, str]] = {}
    for name, key in named.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        layer = key.removesuffix(".weight")
        if isinstance(module, CodedLayer) and leaf == "weight" and layer in model.layers:
            coded[layer] = (module, _multiply(module))
        elif key in model.dense:
            dense[key] = (module, leaf)
    network.requires_grad_(False)
    return Sites(network, torch.device(device), coded, dense)


def _multiply(module: CodedLayer) -> Multiply:
    if not isinstance(module, CodedConv2d):
        return F.linear

    def convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return module._convolve(input, weight, bias).contiguous()

    return convolve
