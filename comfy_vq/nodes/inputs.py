"""Inputs that several nodes have."""

from __future__ import annotations

from comfy_api.latest import io

from ..hosts.modes import COMPUTE


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
