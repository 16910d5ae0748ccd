from __future__ import annotations

from comfy_api.latest import io, ui

from ..budget import parse_bits
from ..codecs import AUTO
from ..hosts.comfy.cache import host_cache
from ..hosts.comfy.clip.quantizing import quantize_clip
from .inputs import bits_are_valid, codec_input, quantizing_inputs


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
                *quantizing_inputs(
                    "4.0",
                    "of all but the token tables, which stay as they are",
                    "2 GB",
                    " An encoder's name, such as clip_l, keeps all of it.",
                ),
                codec_input(),
            ],
            outputs=[io.Clip.Output("clip"), io.String.Output("report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, bits: str | float | None) -> bool | str:
        return bits_are_valid(bits)

    @classmethod
    def execute(
        cls,
        clip,
        bits: str | float,
        effort: str,
        exclude: str,
        cache: bool = True,
        codec: str = AUTO,
    ) -> io.NodeOutput:
        quantized, report = quantize_clip(
            clip,
            parse_bits(bits),
            effort,
            exclude,
            cls.hidden.unique_id,
            host_cache() if cache else None,
            codec,
        )
        return io.NodeOutput(quantized, report, ui=ui.PreviewText(report))


NODES = [VQQuantizeCLIP]
