"""Names of the denoiser's weights: diffusers' and the original ones that ComfyUI reads."""

from __future__ import annotations

_OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "mid_block.resnets.0": "middle_block.0",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original(name: str) -> str:
    """The original name of a weight of `denoiser.build()`, given diffusers' name.

    Raises:
        KeyError: the model has no such weight.
    """
    for prefix, replacement in _OUTER.items():
        if name.startswith(prefix + "."):
            rest = name[len(prefix) + 1 :]
            if ".resnets." in prefix:
                part, _, end = rest.partition(".")
                rest = f"{_IN_RESNET[part]}.{end}"
            return f"{replacement}.{rest}"
    raise KeyError(name)
