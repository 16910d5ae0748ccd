from __future__ import annotations

from comfy_api.latest import io, ui

from ..budget import parse_bits
from ..codecs import AUTO
from ..hosts.comfy.cache import host_cache
from ..hosts.comfy.files import folders
from ..hosts.comfy.quantizing import PLANS, Planning, quantize_model
from ..hosts.modes import COMPUTE
from .inputs import CALIBRATION, bits_are_valid, codec_input, quantizing_inputs, spare_memory_input

_NONE = "none"


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
                *quantizing_inputs(
                    "3.0", "of the whole diffusion model, everything counted", "4 GB"
                ),
                io.Combo.Input(
                    "compute",
                    options=list(COMPUTE),
                    default="auto",
                    optional=True,
                    tooltip="How the result computes; changes nothing in its file. auto: int8 where it is faster "
                    "on this graphics card. Layers that int8 would harm stay exact.",
                ),
                spare_memory_input(),
                codec_input(),
                io.Combo.Input(
                    "plan",
                    options=list(PLANS),
                    default=PLANS[0],
                    optional=True,
                    tooltip="Which layers get more bits. table: by what is known of the model's family. measured: by "
                    "what coding each layer does to this model's output; takes some model evaluations for each. "
                    "auto: measured at effort best, else table.",
                ),
                io.Combo.Input(
                    "plan_of",
                    display_name="plan of",
                    options=[_NONE, *folders.vq_files()],
                    default=_NONE,
                    optional=True,
                    tooltip="Take the plan of this VQ file, of a model of the same architecture, instead.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="To measure with, for plan: measured. Without it: random vectors.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="To measure with. Leave it away for models without guidance.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty latent: the size to measure at. Smaller is faster. Without it: the native size.",
                ),
                CALIBRATION.Input(
                    "calibration",
                    optional=True,
                    tooltip="Of this model, from VQ Calibrate: the same size, better pictures. With positive "
                    "connected, each layer is checked by the model's own output.",
                ),
            ],
            outputs=[io.Model.Output("model"), io.String.Output("report")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, bits: str | float | None) -> bool | str:
        return bits_are_valid(bits)

    @classmethod
    def execute(
        cls,
        model,
        bits: str | float,
        effort: str,
        exclude: str,
        cache: bool = True,
        compute: str = "auto",
        spare_vram: int = 0,
        codec: str = AUTO,
        plan: str = PLANS[0],
        plan_of: str = _NONE,
        positive=None,
        negative=None,
        latent=None,
        calibration=None,
    ) -> io.NodeOutput:
        like = None if plan_of == _NONE else folders.path_of(plan_of)
        quantized, report = quantize_model(
            model,
            parse_bits(bits),
            effort,
            exclude,
            cls.hidden.unique_id,
            host_cache() if cache else None,
            compute,
            spare_vram,
            codec,
            Planning(plan, like, positive, negative, latent),
            calibration,
        )
        return io.NodeOutput(quantized, report, ui=ui.PreviewText(report))


NODES = [VQQuantizeModel]
