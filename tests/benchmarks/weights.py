"""A UNet's names with a few small weights."""

from __future__ import annotations

import torch

from toy_weights import Weights

SHAPES = {
    "input_blocks.0.0.weight": (64, 4, 3, 3),
    "input_blocks.0.0.bias": (64,),
    "input_blocks.1.0.emb_layers.1.weight": (64, 256),
    "input_blocks.1.0.in_layers.0.weight": (64,),
    "input_blocks.1.0.in_layers.2.weight": (64, 64, 3, 3),
    "input_blocks.1.1.proj_in.weight": (64, 64, 1, 1),
    **{
        f"input_blocks.1.1.transformer_blocks.{block}.attn{number}.to_v.weight": (64, 64)
        for block in range(3)
        for number in (1, 2)
    },
    "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (64, 64),
    "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight": (512, 64),
    "input_blocks.1.1.transformer_blocks.0.ff.net.2.weight": (64, 256),
    "odd.weight": (3, 100),
    "out.2.weight": (4, 64, 3, 3),
    "time_embed.0.weight": (256, 64),
}


def weights_of_a_unet() -> Weights:
    generator = torch.Generator().manual_seed(0)
    return Weights(
        {
            key: (torch.randn(shape, generator=generator) * 0.02).half()
            for key, shape in SHAPES.items()
        }
    )
