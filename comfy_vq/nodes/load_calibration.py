from __future__ import annotations

from comfy_api.latest import io

from .. import calibration
from ..hosts.comfy.files import folders
from .inputs import CALIBRATION


class LoadVQCalibration(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadVQCalibration",
            display_name="Load VQ Calibration",
            category="VQ",
            description="Load a calibration, for VQ Quantize Model or to continue it.",
            search_aliases=["import calibration"],
            inputs=[
                io.Combo.Input(
                    "calibration_name",
                    options=folders.calibration_files(),
                    tooltip="Calibrations in models/vq_calibrations and output/vq_calibrations.",
                ),
            ],
            outputs=[CALIBRATION.Output("calibration")],
        )

    @classmethod
    def fingerprint_inputs(cls, calibration_name: str) -> tuple[str, int, int]:
        return folders.fingerprint(folders.calibration_path(calibration_name))

    @classmethod
    def execute(cls, calibration_name: str) -> io.NodeOutput:
        return io.NodeOutput(calibration.load(folders.calibration_path(calibration_name)))


NODES = [LoadVQCalibration]
