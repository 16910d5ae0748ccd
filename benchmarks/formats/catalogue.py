"""All formats of the comparison, by the names that its tables have."""

from __future__ import annotations

import torch

from . import gguf_files
from .floats import fp8, fp8_scaled, int8_rows, kitchen
from .format import Format, by_layer
from .nf4 import nf4
from .ours import by_command, vq

BITS = (4.0, 3.5, 3.0, 2.5, 2.2)
CODECS = ("additive", "trellis")
_FLAT = ("Q5_K", "Q4_K", "Q4_0", "Q3_K", "Q2_K", "MXFP4", "IQ4_NL", "IQ4_XS")
_FLAT += ("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS")
EFFORT = "balanced"
"""Of ours, where a name does not say another."""
ELSEWHERE = "unet"
"""Family whose sensitivities were measured on other models than the shipped one."""


def formats(effort: str = EFFORT) -> list[Format]:
    """Theirs, then ours."""
    comfyui = [
        Format("fp8", by_layer(fp8, rest=torch.float8_e4m3fn)),
        Format("fp8 scaled", by_layer(fp8_scaled)),
        Format("int8 rows", by_layer(int8_rows)),
        Format("mxfp8", by_layer(kitchen("TensorCoreMXFP8Layout"))),
        Format("nvfp4", by_layer(kitchen("TensorCoreNVFP4Layout"))),
    ]
    bitsandbytes = [
        Format("NF4", by_layer(nf4())),
        Format("NF4 double", by_layer(nf4(double=True))),
    ]
    gguf = [
        Format(name, gguf_files.write(gguf_files.as_comfyui_gguf(mix)), ".gguf")
        for name, mix in gguf_files.MIXES.items()
    ]
    gguf += [
        Format(f"{kind} flat", gguf_files.write(gguf_files.flattened(kind), uniform=True), ".gguf")
        for kind in _FLAT
    ]
    return [*comfyui, *bitsandbytes, *gguf, *ours(effort)]


def ours(effort: str) -> list[Format]:
    """Each codec at each size, and where it matters most with sensitivities of other models."""
    suffix = "" if effort == EFFORT else f" {effort}"
    made = [
        Format(f"VQ{bits:g} {codec}{suffix}", vq(bits, codec, effort))
        for codec in CODECS
        for bits in BITS
    ]
    foreign = [
        Format(f"VQ{bits:g} {codec} {ELSEWHERE}{suffix}", vq(bits, codec, effort, ELSEWHERE))
        for codec in CODECS
        for bits in (3.0, 2.2)
    ]
    by_itself = [
        Format(
            f"VQ3 {codec} measured{suffix}",
            by_command(3.0, "--codec", codec, "--effort", effort, "--plan", "measured"),
        )
        for codec in CODECS
    ]
    calibrated = [
        Format(
            f"VQ{bits:g} calibrated{suffix}", by_command(bits, "--effort", effort, calibrated=True)
        )
        for bits in (4.0, 3.0, 2.2)
    ]
    return made + foreign + by_itself + calibrated
