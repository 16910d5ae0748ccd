"""Which family a model belongs to, and one naming for its layers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from .transformers import transformer_family


def detect_family(keys_and_shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A family that has sensitivities, from checkpoint keys (without prefix) and shapes.

    UNets are recognized in the naming of the original checkpoints and in that of diffusers,
    transformers in that of the original checkpoints. A diffusion transformer of no known family is
    ``dit``; what is neither is ``generic``.
    """
    shapes = {
        unet_name(key.removesuffix(".weight")): shape for key, shape in keys_and_shapes.items()
    }
    if any(name.startswith("input_blocks.") for name in shapes):
        return _unet_family(shapes)
    return transformer_family(shapes) or "generic"


def _unet_family(shapes: Mapping[str, tuple[int, ...]]) -> str:
    outputs = 1 + max(
        (int(name.split(".")[1]) for name in shapes if name.startswith("output_blocks.")),
        default=-1,
    )
    classes = any(name.startswith("label_emb.") for name in shapes)
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k")}
    if outputs == 2 and contexts == {768}:
        return "demo"
    if outputs == 9 and classes and contexts == {2048}:
        return "sdxl"
    if outputs == 12 and classes and contexts == {1280}:
        return "sdxl-refiner"
    if any(".time_stack." in name for name in shapes):
        return "svd"
    if outputs == 12 and not classes:
        return "sd2" if contexts == {1024} else "sd15"
    return "unet"


_STACK = re.compile(r"^((?:.*?\.)?\w*(?:blocks?|layers))\.(\d+)\.(.+)")


def canonical_names(names: Sequence[str]) -> list[str]:
    """Names as the sensitivity tables have them.

    UNet layers as ``unet_name`` gives them; elsewhere the last block of a stack is called ``last``
    instead of by its number, which differs from model to model.
    """
    names = [unet_name(name) for name in names]
    if any(name.startswith("input_blocks.") for name in names):
        return names
    stacks: dict[str, int] = defaultdict(int)
    for found in filter(None, map(_STACK.match, names)):
        stacks[found[1]] = max(stacks[found[1]], int(found[2]))
    return [_with_last(name, stacks) for name in names]


def _with_last(name: str, stacks: Mapping[str, int]) -> str:
    found = _STACK.match(name)
    if found and int(found[2]) == stacks[found[1]] > 0:
        return f"{found[1]}.last.{found[3]}"
    return name


_RESIDUAL = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_BLOCK = re.compile(
    r"(?P<side>down_blocks|up_blocks)\.(?P<level>\d+)\."
    r"(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<at>\d+)\.(?P<rest>.+)"
)
_MIDDLE = re.compile(r"mid_block\.(?P<kind>resnets|attentions)\.(?P<at>\d+)\.(?P<rest>.+)")


def unet_name(name: str) -> str:
    """A UNet layer's name in the original checkpoints' naming; other names as they are.

    Translates diffusers' naming for two residual blocks per level, as in all of Stable Diffusion
    1, 2 and XL: three numbered input and output blocks per level.
    """
    if name in _TOP:
        return _TOP[name]
    if found := _MIDDLE.fullmatch(name):
        at = 1 if found["kind"] == "attentions" else 2 * int(found["at"])
        return f"middle_block.{at}.{_RESIDUAL.get(found['rest'], found['rest'])}"
    if not (found := _BLOCK.fullmatch(name)):
        return name
    level, at, rest = int(found["level"]), int(found["at"]), found["rest"]
    if found["kind"] == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op"
    if found["kind"] == "upsamplers":
        return f"output_blocks.{3 * level + 2}.2.conv"
    side, first = ("input_blocks", 1) if found["side"] == "down_blocks" else ("output_blocks", 0)
    part = 1 if found["kind"] == "attentions" else 0
    return f"{side}.{3 * level + at + first}.{part}.{_RESIDUAL.get(rest, rest)}"
