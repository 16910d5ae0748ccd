"""Which layers VQDM quantizes, and in what order, in the naming of the original checkpoints.

Its own code names them as diffusers does (``main_text2image.py``): all linear layers and convolutions in the
down, middle and up blocks but for ``time_emb_proj``. The first and last convolution, embeddings, norms and biases
stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..codecs.codebooks import GROUP
from ..errors import VQError

LEAST = 16
"""Layers of fewer inputs or outputs stay as they are."""
_SELECTED = re.compile(
    r"(?P<side>input_blocks|middle_block|output_blocks)\.(?P<at>\d+)\..*"
    r"(to_[qkv]|to_out\.0|ff\.net\.(0\.proj|2)"  # attention and feed-forward
    r"|in_layers\.2|out_layers\.3|skip_connection"  # conv1, conv2 and conv_shortcut
    r"|proj_(in|out)|\.(op|conv))"  # op and conv change the size of the picture
)
_DOWN = re.compile(r"input_blocks\.(\d+)\.\d+\.op")
_UP = re.compile(r"output_blocks\.(\d+)\.\d+\.conv")


@dataclass(frozen=True)
class BlockGroup:
    """Layers that are quantized together: those of one level on its way down or up, or of the middle."""

    name: str
    layers: tuple[str, ...]


def selected(name: str, shape: tuple[int, ...]) -> bool:
    """Whether VQDM quantizes a layer.

    Args:
        name: the original checkpoint key without prefix and ``.weight``.
        shape: of the weight, ``[out, in, ...]``. Inputs that groups of 8 do not divide stay dense.
    """
    fits = len(shape) in (2, 4) and shape[1] % GROUP == 0 and min(shape[:2]) >= LEAST
    return fits and _SELECTED.fullmatch(name) is not None


def block_groups(shapes: Mapping[str, tuple[int, ...]]) -> list[BlockGroup]:
    """The selected layers, group by group in the order of their use: seven of SDXL.

    Args:
        shapes: of the weights of all layers, by name.

    Raises:
        VQError: none is selected: the model is no UNet in the naming of Stable Diffusion.
    """
    layers = [name for name, shape in shapes.items() if selected(name, shape)]
    if not layers:
        raise VQError(
            "found no layer that VQDM quantizes, expected a UNet of the Stable Diffusion family with the "
            "keys of the original checkpoints (input_blocks.*, middle_block.*, output_blocks.*)"
        )
    ends = [
        sorted(int(found[1]) for found in map(pattern.fullmatch, shapes) if found)
        for pattern in (_DOWN, _UP)
    ]
    groups: dict[tuple[int, int], list[str]] = {}
    for name in layers:
        groups.setdefault(_place(name, *ends), []).append(name)
    return [
        BlockGroup(_name(*place), tuple(sorted(groups[place], key=_natural)))
        for place in sorted(groups)
    ]


def _place(name: str, downs: list[int], ups: list[int]) -> tuple[int, int]:
    """Side and level. What changes the size belongs to the level that it ends."""
    found = _SELECTED.fullmatch(name)
    assert found is not None
    at = int(found["at"])
    if found["side"] == "middle_block":
        return 1, 0
    if found["side"] == "input_blocks":
        return 0, sum(end < at for end in downs)
    return 2, sum(end < at for end in ups)


def _name(side: int, level: int) -> str:
    return "middle" if side == 1 else f"{('down', '', 'up')[side]} {level}"


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in name.split("."))
