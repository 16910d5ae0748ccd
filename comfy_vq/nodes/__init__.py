"""The ComfyUI nodes: each a schema and one call into the ComfyUI adapter."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..hosts.comfy.files import folders
from . import (
    calibrate,
    finetune,
    load_calibration,
    load_checkpoint,
    load_clip,
    load_full_checkpoint,
    quality_report,
    quantize_clip,
    quantize_model,
    save_calibration,
    save_checkpoint,
    save_clip,
)

folders.register()

NODES = [
    *quantize_model.NODES,
    *save_checkpoint.NODES,
    *load_checkpoint.NODES,
    *quality_report.NODES,
    *quantize_clip.NODES,
    *save_clip.NODES,
    *load_clip.NODES,
    *load_full_checkpoint.NODES,
    *calibrate.NODES,
    *save_calibration.NODES,
    *load_calibration.NODES,
    *finetune.NODES,
]


class VQExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> VQExtension:
    return VQExtension()
