from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.calibrating import calibrate
from ..hosts.comfy.display import bar_step
from ..hosts.comfy.evaluation.bench import Settings
from ..hosts.comfy.evaluation.report import seeds_of
from .inputs import CALIBRATION, sampling_inputs


class VQCalibrate(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VQCalibrate",
            display_name="VQ Calibrate",
            category="VQ",
            description="Sample pictures and learn what goes into each layer, for VQ Quantize Model.",
            search_aliases=["activations", "importance matrix", "imatrix", "second moments"],
            inputs=[
                io.Model.Input("model", tooltip="The dense model that is to be quantized."),
                *sampling_inputs(
                    4, 1, 4096, "How many to sample of this prompt, each with a seed of its own."
                ),
                CALIBRATION.Input(
                    "calibration",
                    optional=True,
                    tooltip="Of other prompts, to be continued with this one.",
                ),
            ],
            outputs=[CALIBRATION.Output("calibration"), io.String.Output("report")],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        pictures: int,
        calibration=None,
    ) -> io.NodeOutput:
        found = calibrate(
            model,
            seeds_of(positive, negative, seed, pictures),
            Settings(latent, steps, cfg, sampler_name, scheduler),
            calibration,
            on_call=bar_step(pictures * steps),
        )
        report = found.describe()
        return io.NodeOutput(found, report, ui=ui.PreviewText(report))


NODES = [VQCalibrate]
