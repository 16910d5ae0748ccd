from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.evaluation.bench import Settings
from ..hosts.comfy.evaluation.report import quality_report, seeds_of
from .inputs import sampling_inputs


class VQQualityReport(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VQQualityReport",
            display_name="VQ Quality Report",
            category="VQ",
            description="Measure how far compressed models are from the original, at what size.",
            search_aliases=["compare models", "quantization error", "sqnr", "bits per weight"],
            inputs=[
                io.Model.Input("reference", tooltip="The model to compare with, as a rule dense."),
                io.Model.Input("candidate", tooltip="VQ, native formats of ComfyUI, GGUF, any."),
                *sampling_inputs(
                    4, 1, 256, "How many seeds to measure with. More of them narrow the intervals."
                ),
                io.Vae.Input("vae", optional=True, tooltip="To compare pictures too."),
                io.Model.Input("candidate_2", optional=True),
                io.Model.Input("candidate_3", optional=True),
                io.Boolean.Input(
                    "noise_floor",
                    default=False,
                    optional=True,
                    tooltip="Measure the reference rounded to bfloat16 too: what is below does not count.",
                ),
            ],
            outputs=[
                io.String.Output("report"),
                io.Image.Output("pictures"),
                io.String.Output("json"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        reference,
        candidate,
        positive,
        negative,
        latent,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        pictures: int,
        vae=None,
        candidate_2=None,
        candidate_3=None,
        noise_floor: bool = False,
    ) -> io.NodeOutput:
        text, images, json = quality_report(
            reference,
            [model for model in (candidate, candidate_2, candidate_3) if model is not None],
            seeds_of(positive, negative, seed, pictures),
            Settings(latent, steps, cfg, sampler_name, scheduler),
            vae,
            noise_floor,
        )
        shown = ui.PreviewText(text).as_dict() | ui.PreviewImage(images, cls=cls).as_dict()
        return io.NodeOutput(text, images, json, ui=shown)


NODES = [VQQualityReport]
