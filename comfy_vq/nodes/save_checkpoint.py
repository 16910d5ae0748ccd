from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.files.saving import save_model


class SaveVQCheckpoint(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveVQCheckpoint",
            display_name="Save VQ Checkpoint",
            category="VQ",
            description="Save a vector-quantized model to the output folder, with text encoders and autoencoder if "
            "they are connected.",
            search_aliases=["export vq model"],
            inputs=[
                io.Model.Input("model", tooltip="From VQ Quantize Model or Load VQ Checkpoint."),
                io.String.Input("filename_prefix", default="diffusion_models/ComfyUI-VQ"),
                io.Boolean.Input(
                    "embed_workflow",
                    default=True,
                    tooltip="Store this workflow in the file, as ComfyUI's own save nodes do.",
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Text encoders to save in the same file: coded from VQ Quantize CLIP, else dense.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Autoencoder to save in the same file, as it is."
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, model, filename_prefix: str, embed_workflow: bool, clip=None, vae=None
    ) -> io.NodeOutput:
        workflow = (cls.hidden.prompt, cls.hidden.extra_pnginfo) if embed_workflow else (None, None)
        path = save_model(model, filename_prefix, *workflow, clip, vae)
        return io.NodeOutput(ui=ui.PreviewText(path))


NODES = [SaveVQCheckpoint]
