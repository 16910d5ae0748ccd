from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.saving import save_model


class SaveVQCheckpoint(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveVQCheckpoint",
            display_name="Save VQ Checkpoint",
            category="VQ",
            description="Save a vector-quantized model to the output folder.",
            search_aliases=["export vq model"],
            inputs=[
                io.Model.Input("model", tooltip="From VQ Quantize Model or Load VQ Checkpoint."),
                io.String.Input("filename_prefix", default="diffusion_models/ComfyUI-VQ"),
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
    def execute(cls, model, filename_prefix: str, embed_workflow: bool) -> io.NodeOutput:
        workflow = (cls.hidden.prompt, cls.hidden.extra_pnginfo) if embed_workflow else ()
        return io.NodeOutput(ui=ui.PreviewText(save_model(model, filename_prefix, *workflow)))


NODES = [SaveVQCheckpoint]
