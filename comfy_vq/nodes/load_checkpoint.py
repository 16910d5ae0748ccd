from __future__ import annotations

from comfy_api.latest import io

from ..hosts.comfy.files import folders
from ..hosts.comfy.model.compute_mode import compute_as
from ..hosts.comfy.model.loader import keep_decoded, load_file
from .inputs import compute_input, spare_memory_input


class LoadVQCheckpoint(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVQCheckpoint",
            display_name="Load VQ Checkpoint",
            category="VQ",
            description="Load a vector-quantized model. It stays compressed in memory.",
            search_aliases=["load vq model"],
            inputs=[
                io.Combo.Input(
                    "vq_name",
                    options=folders.vq_files(),
                    tooltip="VQ files in models/diffusion_models, models/vq and models/checkpoints.",
                ),
                compute_input(),
                spare_memory_input(),
            ],
            outputs=[io.Model.Output("model")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, vq_name: str, compute: str = "auto", spare_vram: int = 0
    ) -> tuple[str, int, int]:
        return folders.fingerprint(folders.path_of(vq_name))

    @classmethod
    def execute(cls, vq_name: str, compute: str = "auto", spare_vram: int = 0) -> io.NodeOutput:
        model = compute_as(load_file(folders.path_of(vq_name)), compute)
        return io.NodeOutput(keep_decoded(model, spare_vram))


NODES = [LoadVQCheckpoint]
