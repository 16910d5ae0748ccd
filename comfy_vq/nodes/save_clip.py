from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.files.saving import save_clip


class SaveVQCLIP(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveVQCLIP",
            display_name="Save VQ CLIP",
            category="VQ",
            description="Save vector-quantized text encoders, all in one file, to the output folder.",
            search_aliases=["export vq text encoder"],
            inputs=[
                io.Clip.Input("clip", tooltip="From VQ Quantize CLIP or Load VQ CLIP."),
                io.String.Input("filename_prefix", default="text_encoders/ComfyUI-VQ"),
                io.Boolean.Input(
                    "embed_workflow",
                    default=True,
                    tooltip="Store this workflow in the file, as ComfyUI's own save nodes do.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, clip, filename_prefix: str, embed_workflow: bool) -> io.NodeOutput:
        workflow = (cls.hidden.prompt, cls.hidden.extra_pnginfo) if embed_workflow else ()
        return io.NodeOutput(ui=ui.PreviewText(save_clip(clip, filename_prefix, *workflow)))


NODES = [SaveVQCLIP]
