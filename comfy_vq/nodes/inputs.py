"""Inputs that several nodes have."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..budget import parse_bits
from ..codecs import AUTO, CODECS
from ..errors import VQError
from ..hosts.modes import COMPUTE

CALIBRATION = io.Custom("VQ_CALIBRATION")
"""What goes into each layer, from VQ Calibrate or a file."""


def quantizing_inputs(bits: str, average: str, example: str, more: str = "") -> list[io.Input]:
    """What a node that quantizes asks for: bits, effort, layers to leave alone, cache.

    Args:
        bits: the default.
        average: over what the bits are one.
        example: of memory to stay within.
        more: about layers to leave alone.
    """
    return [
        io.MultiType.Input(
            io.String.Input(
                "bits",
                default=bits,
                tooltip=f"Average bits per weight {average}, 2 to 8; or the graphics memory to stay within, "
                f"such as: fit {example}",
            ),
            types=[io.Float, io.Int],
        ),
        io.Combo.Input(
            "effort",
            options=["fast", "balanced", "best"],
            default="balanced",
            tooltip="How hard to search. Does not change the size of the result.",
        ),
        io.String.Input(
            "exclude",
            display_name="layers to leave alone",
            default="",
            multiline=True,
            tooltip="Layers to keep as they are, one a line: part of a name, or a pattern with * and ?."
            + more,
        ),
        io.Boolean.Input(
            "cache",
            default=True,
            optional=True,
            tooltip="Keep the result on disk, so that the same weights are not quantized again.",
        ),
    ]


def sampling_inputs(pictures: int, least: int, most: int, what: str) -> list[io.Input]:
    """What a node that samples asks for: KSampler's inputs in its order, and how many pictures.

    Args:
        pictures, least, most: default and limits of their number.
        what: it means.
    """
    sampler = comfy.samplers.KSampler
    return [
        io.Conditioning.Input("positive"),
        io.Conditioning.Input("negative"),
        io.Latent.Input("latent", tooltip="An empty latent, batch size 1."),
        io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
        io.Int.Input("steps", default=20, min=1, max=10000),
        io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01),
        io.Combo.Input("sampler_name", options=sampler.SAMPLERS),
        io.Combo.Input("scheduler", options=sampler.SCHEDULERS),
        io.Int.Input("pictures", default=pictures, min=least, max=most, tooltip=what),
    ]


def codec_input() -> io.Combo.Input:
    """How weights are coded."""
    return io.Combo.Input(
        "codec",
        options=[*CODECS, AUTO],
        default=AUTO,
        optional=True,
        tooltip="How weights are coded. additive: quick to find. trellis: better at the same size, takes longer to find. "
        "auto: the better one; additive at effort fast and under a calibration, else trellis.",
    )


def bits_are_valid(bits: str | float | None) -> bool | str:
    """What is wrong with a number of bits, else True; what a link will bring is not known yet."""
    try:
        return bits is None or bool(parse_bits(bits))
    except VQError as error:
        return str(error)


def compute_input() -> io.Combo.Input:
    """How a loaded model computes."""
    return io.Combo.Input(
        "compute",
        options=list(COMPUTE),
        default="auto",
        optional=True,
        tooltip="auto: int8 where it is faster on this graphics card. Layers that int8 would harm stay exact.",
    )


def spare_memory_input() -> io.Int.Input:
    """Memory for decoded weights; 0 by default."""
    return io.Int.Input(
        "spare_vram",
        display_name="spare VRAM (MB)",
        default=0,
        min=0,
        max=1 << 20,
        step=64,
        optional=True,
        tooltip="Memory to keep weights decoded in, which saves time in every step. ComfyUI does not "
        "count it: give what stays free while you sample. 0: none.",
    )
