from __future__ import annotations

from comfy_api.latest import io, ui

from ..budget import parse_bits
from ..errors import VQError
from ..hosts.comfy.cache import host_cache
from ..hosts.comfy.clip_quantizing import quantize_clip


class VQQuantizeCLIP(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VQQuantizeCLIP",
            display_name="VQ Quantize CLIP",
            category="VQ",
            description="Compress text encoders to 2-8 bits per weight by vector quantization.",
            search_aliases=["compress text encoder", "quantize t5", "vector quantization"],
            inputs=[
                io.Clip.Input("clip", tooltip="Dense text encoders. LoRAs on them are baked in."),
                io.MultiType.Input(
                    io.String.Input(
                        "bits",
                        default="4.0",
                        tooltip="Average bits per weight of all but the token tables, which stay as they "
                        "are, 2 to 8; or the graphics memory to stay within, such as: fit 2 GB",
                    ),
                    types=[io.Float, io.Int],
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
                    tooltip="Layers to keep as they are, one a line: part of a name, or a pattern with * and ?. "
                    "An encoder's name, such as clip_l, keeps all of it.",
                ),
                io.Boolean.Input(
                    "cache",
                    default=True,
                    optional=True,
                    tooltip="Keep the result on disk, so that the same encoders are not quantized again.",
                ),
            ],
            outputs=[io.Clip.Output("clip"), io.String.Output("report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, bits: str | float | None) -> bool | str:
        """Refuses a value that is no number of bits; what a link will bring is not known yet."""
        try:
            return bits is None or bool(parse_bits(bits))
        except VQError as error:
            return str(error)

    @classmethod
    def execute(
        cls, clip, bits: str | float, effort: str, exclude: str, cache: bool = True
    ) -> io.NodeOutput:
        quantized, report = quantize_clip(
            clip,
            parse_bits(bits),
            effort,
            exclude,
            cls.hidden.unique_id,
            host_cache() if cache else None,
        )
        return io.NodeOutput(quantized, report, ui=ui.PreviewText(report))


NODES = [VQQuantizeCLIP]
