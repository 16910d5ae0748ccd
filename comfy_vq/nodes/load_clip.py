from __future__ import annotations

from comfy_api.latest import io

from ..hosts.comfy.clip.encoders import load_clip_file
from ..hosts.comfy.files import folders


class LoadVQCLIP(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVQCLIP",
            display_name="Load VQ CLIP",
            category="VQ",
            description="Load vector-quantized text encoders. They stay compressed in memory.",
            search_aliases=["load vq text encoder"],
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=folders.vq_files(folders.ENCODERS),
                    tooltip="VQ files with text encoders in models/text_encoders, models/vq and "
                    "models/checkpoints.",
                ),
            ],
            outputs=[io.Clip.Output("clip")],
        )

    @classmethod
    def fingerprint_inputs(cls, clip_name: str) -> tuple[str, int, int]:
        return folders.fingerprint(folders.path_of(clip_name, folders.ENCODERS))

    @classmethod
    def execute(cls, clip_name: str) -> io.NodeOutput:
        return io.NodeOutput(load_clip_file(folders.path_of(clip_name, folders.ENCODERS)))


NODES = [LoadVQCLIP]
