from __future__ import annotations

from comfy_api.latest import io, ui

from ..hosts.comfy.quantizing import quantize_model


class VQQuantizeModel(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VQQuantizeModel",
            display_name="VQ Quantize Model",
            category="VQ",
            description="Compress a diffusion model to 2-8 bits per weight by vector quantization.",
            search_aliases=["compress model", "vector quantization", "AQLM"],
            inputs=[
                io.Model.Input("model", tooltip="Dense model. LoRAs on it are baked in."),
                io.Float.Input(
                    "bits",
                    default=3.0,
                    min=2.0,
                    max=8.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Average bits per weight of the whole diffusion model, everything counted.",
                ),
                io.Combo.Input(
                    "effort",
                    options=["fast", "balanced", "best"],
                    default="balanced",
                    tooltip="How hard to search. Does not change the size or the speed of the result.",
                ),
                io.String.Input(
                    "exclude",
                    display_name="layers to leave alone",
                    default="",
                    multiline=True,
                    tooltip="Layers to keep as they are, one a line: part of a name, or a pattern with * and ?.",
                ),
            ],
            outputs=[io.Model.Output("model"), io.String.Output("report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, bits: float, effort: str, exclude: str) -> io.NodeOutput:
        quantized, report = quantize_model(model, bits, effort, exclude, cls.hidden.unique_id)
        return io.NodeOutput(quantized, report, ui=ui.PreviewText(report))


NODES = [VQQuantizeModel]
