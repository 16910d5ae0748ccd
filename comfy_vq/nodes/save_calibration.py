from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.files import folders
from ..hosts.comfy.files.saving import save_calibration
from .inputs import CALIBRATION


class SaveVQCalibration(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SaveVQCalibration",
            display_name="Save VQ Calibration",
            category="VQ",
            description="Save a calibration to the output folder, to quantize again without sampling.",
            search_aliases=["export calibration"],
            inputs=[
                CALIBRATION.Input("calibration"),
                io.String.Input("filename_prefix", default=f"{folders.CALIBRATIONS}/ComfyUI-VQ"),
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
    def execute(cls, calibration, filename_prefix: str, embed_workflow: bool) -> io.NodeOutput:
        workflow = (cls.hidden.prompt, cls.hidden.extra_pnginfo) if embed_workflow else ()
        path = save_calibration(calibration, filename_prefix, *workflow)
        return io.NodeOutput(ui=ui.PreviewText(path))


NODES = [SaveVQCalibration]
