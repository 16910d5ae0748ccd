"""The shape of a Stable Diffusion network, read off its tensors.

Plain names and shapes in, arguments of diffusers' `UNet2DConditionModel` out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import VQError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class _Level:
    """One resolution: width, number of ResBlocks, transformer depth (0: no attention)."""

    channels: int
    blocks: int
    depth: int


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel` for a model in the original naming.

    Args:
        shapes: of all tensors, keyed as in the checkpoint, without a prefix.

    Raises:
        VQError: not a network of the Stable Diffusion family (1.x, 2.x, XL and their like).
    """
    conv_in = _shape(shapes, "input_blocks.0.0.weight")
    conv_out = _shape(shapes, "out.2.weight")
    levels = _levels(shapes)
    blocks = {level.blocks for level in levels}
    middle = _depth(shapes, "middle_block.1")
    context = next((s[1] for k, s in shapes.items() if k.endswith("attn2.to_k.weight")), None)
    linear = any(k.endswith(".proj_in.weight") and len(s) == 2 for k, s in shapes.items())
    deepest = levels[-1]
    if len(blocks) != 1 or (middle and deepest.depth and middle != deepest.depth):
        raise VQError(
            f"a network of {[level.blocks for level in levels]} blocks and transformers "
            f"{[level.depth for level in levels]} deep, {middle} in the middle, has no counterpart "
            "in diffusers, which needs equal blocks and a middle like the last level; use ComfyUI"
        )
    attention = [bool(level.depth) for level in levels]
    depths = [level.depth or 1 for level in levels]
    if middle:
        depths[-1] = middle
    return {
        "in_channels": conv_in[1],
        "out_channels": conv_out[0],
        "block_out_channels": [level.channels for level in levels],
        "layers_per_block": deepest.blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "mid_block_type": _mid_block(shapes, middle),
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]],
        "transformer_layers_per_block": depths,
        "cross_attention_dim": context or 768,
        "use_linear_projection": linear,
        # What diffusers calls attention_head_dim is the number of heads. 1.x has always 8 of
        # them; the later networks, known by their linear projections, have heads 64 wide.
        "attention_head_dim": [max(1, level.channels // 64) for level in levels] if linear else 8,
        **_label_embedding(shapes),
    }


def _levels(shapes: Shapes) -> list[_Level]:
    levels = [_Level(0, 0, 0)]
    number = 1
    while True:
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in shapes:
            levels.append(_Level(0, 0, 0))
        elif f"{block}.0.in_layers.2.weight" in shapes:
            level = levels[-1]
            level.channels = shapes[f"{block}.0.in_layers.2.weight"][0]
            level.blocks += 1
            level.depth = _depth(shapes, f"{block}.1")
        else:
            break
        number += 1
    if not all(level.blocks for level in levels):
        raise VQError(
            f"input_blocks.{number} holds neither a ResBlock (expected in_layers.2.weight) nor a "
            "downsampler (expected 0.op.weight); only networks of the Stable Diffusion family are "
            "taken here: use ComfyUI for others"
        )
    return levels


def _depth(shapes: Shapes, block: str) -> int:
    """How many transformer blocks the attention under a name has."""
    depth = 0
    while f"{block}.transformer_blocks.{depth}.attn1.to_q.weight" in shapes:
        depth += 1
    return depth


def _mid_block(shapes: Shapes, depth: int) -> str | None:
    if "middle_block.0.in_layers.2.weight" not in shapes:
        return None
    return "UNetMidBlock2DCrossAttn" if depth else "UNetMidBlock2D"


def _label_embedding(shapes: Shapes) -> dict[str, Any]:
    """SDXL's pooled text and picture sizes, where the model takes them."""
    if "label_emb.0.0.weight" not in shapes:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
    }


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
    if len(shapes.get(key, ())) != 4:
        raise VQError(
            f"found no convolution {key}, which every network of the Stable Diffusion family in "
            "its original naming has; models in diffusers' naming and other families are not "
            "taken here: use ComfyUI"
        )
    return shapes[key]
