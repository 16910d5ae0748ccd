from __future__ import annotations

from comfy_api.latest import io, ui

from ..finetune.report import to_text
from ..finetune.training import CODE_RATE
from ..finetune.training import Settings as Learning
from ..hosts.comfy.display import Display
from ..hosts.comfy.evaluation.bench import Settings
from ..hosts.comfy.evaluation.report import seeds_of
from ..hosts.comfy.finetuning import curve_image, fine_tune_model
from .inputs import compute_input, sampling_inputs, spare_memory_input


class VQFineTune(io.ComfyNode):
    """Node ids, and the order of inputs and outputs, are a public interface: only append."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VQFineTune",
            display_name="VQ Fine-tune",
            category="VQ",
            description="Teach a quantized model to predict what the model that it was made of predicts.",
            search_aliases=["distill", "distillation", "train quantized model"],
            inputs=[
                io.Model.Input("teacher", tooltip="The dense model. LoRAs on it are learned."),
                io.Model.Input("student", tooltip="The VQ model made of it, without patches."),
                *sampling_inputs(
                    16,
                    2,
                    4096,
                    "How many seeds to sample with the teacher. One in eight is only measured by.",
                ),
                io.Float.Input(
                    "minutes",
                    default=10.0,
                    min=0.01,
                    max=10000.0,
                    step=0.5,
                    tooltip="Of learning; sampling what is learned from comes on top.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=Learning.rate,
                    min=1e-6,
                    max=1.0,
                    step=1e-4,
                    round=False,
                    advanced=True,
                    tooltip="Of one step, relative to the size of what learns. Steps that turn out too long are shortened.",
                ),
                io.Boolean.Input(
                    "move_codes",
                    default=Learning.code_rate > 0,
                    optional=True,
                    tooltip="Let codes change too: never seen to help a real model. Takes 12 bytes per weight.",
                ),
                io.Boolean.Input(
                    "spare_activations",
                    default=True,
                    optional=True,
                    tooltip="Compute activations twice instead of keeping them: slower, much less memory.",
                ),
                compute_input(),
                spare_memory_input(),
            ],
            outputs=[
                io.Model.Output("model"),
                io.String.Output("report"),
                io.Image.Output("curve"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        teacher,
        student,
        positive,
        negative,
        latent,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        pictures: int,
        minutes: float,
        learning_rate: float,
        move_codes: bool = False,
        spare_activations: bool = True,
        compute: str = "auto",
        spare_vram: int = 0,
    ) -> io.NodeOutput:
        tuned, outcome = fine_tune_model(
            teacher,
            student,
            seeds_of(positive, negative, seed, pictures),
            Settings(latent, steps, cfg, sampler_name, scheduler),
            Learning(
                seconds=60 * minutes,
                rate=learning_rate,
                code_rate=CODE_RATE if move_codes else 0.0,
                seed=seed,
            ),
            Display(cls.hidden.unique_id),
            recompute=spare_activations,
            compute=compute,
            spare=spare_vram,
        )
        report, curve = to_text(outcome.model.source.name, outcome), curve_image(outcome)
        shown = ui.PreviewText(report).as_dict() | ui.PreviewImage(curve, cls=cls).as_dict()
        return io.NodeOutput(tuned, report, curve, ui=shown)


NODES = [VQFineTune]
