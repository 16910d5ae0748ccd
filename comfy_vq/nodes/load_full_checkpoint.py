from __future__ import annotations

from comfy_api.latest import io

from ..hosts.comfy.files import folders
from ..hosts.comfy.files.full_checkpoint import load_full
from ..hosts.comfy.model.compute_mode import compute_as
from ..hosts.comfy.model.loader import keep_decoded
from .inputs import compute_input, spare_memory_input


class LoadVQCheckpointFull(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVQCheckpointFull",
            display_name="Load VQ Checkpoint (full)",
            category="VQ",
            description="Load a vector-quantized model with its text encoders and autoencoder from one file.",
            search_aliases=["load vq model clip vae"],
            inputs=[
                io.Combo.Input(
                    "vq_name",
                    options=folders.vq_files(folders.FULL),
                    tooltip="VQ files with model, text encoders and autoencoder in models/checkpoints, "
                    "models/vq and models/diffusion_models.",
                ),
                compute_input(),
                spare_memory_input(),
            ],
            outputs=[io.Model.Output("model"), io.Clip.Output("clip"), io.Vae.Output("vae")],
        )

    @classmethod
    def fingerprint_inputs(
        cls, vq_name: str, compute: str = "auto", spare_vram: int = 0
    ) -> tuple[str, int, int]:
        return folders.fingerprint(folders.path_of(vq_name, folders.FULL))

    @classmethod
    def execute(cls, vq_name: str, compute: str = "auto", spare_vram: int = 0) -> io.NodeOutput:
        model, clip, vae = load_full(folders.path_of(vq_name, folders.FULL))
        return io.NodeOutput(keep_decoded(compute_as(model, compute), spare_vram), clip, vae)


NODES = [LoadVQCheckpointFull]
