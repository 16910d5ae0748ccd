"""A network of the Stable Diffusion family in the original naming, with random weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def shapes(channels: int = 320, context: int = 768) -> dict[str, tuple[int, ...]]:
    """One level, one block, attention, a middle of one ResBlock: the shipped model's layout."""
    time = 4 * channels
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]

    def res_block(name: str, inputs: int) -> None:
        layer(f"{name}.in_layers.0", inputs)
        layer(f"{name}.in_layers.2", channels, inputs, 3, 3)
        layer(f"{name}.emb_layers.1", channels, time)
        layer(f"{name}.out_layers.0", channels)
        layer(f"{name}.out_layers.3", channels, channels, 3, 3)
        if inputs != channels:
            layer(f"{name}.skip_connection", channels, inputs, 1, 1)

    def transformer(name: str) -> None:
        layer(f"{name}.norm", channels)
        layer(f"{name}.proj_in", channels, channels, 1, 1)
        block = f"{name}.transformer_blocks.0"
        for attention, width in (("attn1", channels), ("attn2", context)):
            layer(f"{block}.{attention}.to_q", channels, channels, bias=False)
            layer(f"{block}.{attention}.to_k", channels, width, bias=False)
            layer(f"{block}.{attention}.to_v", channels, width, bias=False)
            layer(f"{block}.{attention}.to_out.0", channels, channels)
        layer(f"{block}.ff.net.0.proj", 8 * channels, channels)
        layer(f"{block}.ff.net.2", channels, 4 * channels)
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{block}.{norm}", channels)
        layer(f"{name}.proj_out", channels, channels, 1, 1)

    layer("time_embed.0", time, channels)
    layer("time_embed.2", time, time)
    layer("input_blocks.0.0", channels, 4, 3, 3)
    res_block("input_blocks.1.0", channels)
    transformer("input_blocks.1.1")
    res_block("middle_block.0", channels)
    for number in range(2):
        res_block(f"output_blocks.{number}.0", 2 * channels)
        transformer(f"output_blocks.{number}.1")
    layer("out.0", channels)
    layer("out.2", 4, channels, 3, 3)
    return found


def state_dict(
    channels: int = 320, context: int = 768, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights scaled so that activations keep their size; norms near one, biases near zero."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in shapes(channels, context).items():
        tensor = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            tensor /= math.sqrt(math.prod(shape[1:]))
        else:
            tensor = 0.1 * tensor + (1.0 if key.endswith(".weight") else 0.0)
        tensors[key] = tensor.to(dtype)
    return tensors
