"""Fine-tuning of VQ MODELs through the host's own modules and samplers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...compute import Multiply
from ...errors import VQError
from ...finetune.questions import Question, mapped, recorded
from ...finetune.rounds import Outcome, Progress, fine_tune
from ...finetune.student import Sites
from ...finetune.training import Settings as Learning
from ...model import VQModel
from ...progress import Progress as Encoding
from .display import Display, raise_if_interrupted
from .evaluation.bench import ComfyBench, Prompt, Settings
from .model.carry import carry_over
from .model.compute_mode import compute_as
from .model.described import saved_names
from .model.layout import is_coded
from .model.loader import InMemory, keep_decoded, load, origin_of
from .model.ops import CodedWeight
from .model.source import held_weights

_PATCHES = ("patches", "patches_replace")
_INNER = "diffusion_model"
_PER_CALL = ("cond_or_uncond", "uuids", "sigmas", "sample_sigmas")
"""What the host tells patches about a call; without patches nobody reads it."""


def fine_tune_model(
    teacher: ModelPatcher,
    student: ModelPatcher,
    prompts: Sequence[Prompt],
    sampling: Settings,
    learning: Learning,
    display: Display,
    *,
    recompute: bool = False,
    compute: str = "auto",
    spare: int = 0,
) -> tuple[ModelPatcher, Outcome]:
    """A VQ MODEL that predicts more nearly what its teacher does; neither MODEL is changed.

    Args:
        teacher, student, prompts, sampling: see ``ComfyPupil``.
        learning: how to learn.
        recompute: spare activations at the cost of time.
        display: shows progress, and passes on the user's wish to stop.
        compute, spare: as of ``quantizing.quantize_model``.

    Raises:
        VQError: see ``ComfyPupil`` and ``finetune.rounds.fine_tune``.
        comfy.model_management.InterruptProcessingException: the user cancelled; nothing is kept.
    """

    def show(progress: Progress) -> None:
        last = progress.points[-1].sqnr_db
        name = f"{last:.2f} dB"
        display(Encoding(progress.done, 1.0, name, progress.seconds_left))

    with learning_allowed():
        pupil = ComfyPupil(teacher, student, prompts, sampling, raise_if_interrupted)
        outcome = fine_tune(
            pupil,
            learning,
            recompute=recompute,
            say=display.say,
            on_progress=show,
        )
    origin = InMemory(outcome.model)
    tuned = compute_as(carry_over(student, load(origin), origin), compute)
    return keep_decoded(tuned, spare), outcome


def curve_image(outcome: Outcome) -> Tensor:
    """Learning as an IMAGE ``[1, h, w, 3]``; white where matplotlib is not installed."""
    try:
        from ...finetune.curve import draw_curve
    except ImportError:
        return torch.ones(1, 64, 64, 3)
    return torch.from_numpy(draw_curve(outcome.points)).float()[None] / 255


class ComfyPupil:
    """See ``finetune.rounds.Pupil``: a VQ model and its teacher as MODELs of the host.

    Args:
        teacher: as a rule the dense MODEL that the student was made of.
        student: a VQ MODEL without patches; it is not changed.
        prompts, settings: what to sample, and how.
        on_call: called after every evaluation of a model while sampling; may raise to stop.

    Raises:
        VQError: the student is no VQ MODEL or carries patches; see also ``ComfyBench``.
    """

    def __init__(
        self,
        teacher: ModelPatcher,
        student: ModelPatcher,
        prompts: Sequence[Prompt],
        settings: Settings,
        on_call: Callable[[], object],
    ) -> None:
        origin = origin_of(student)
        if origin is None:
            raise VQError(
                "student: found a MODEL that is not vector-quantized, expected one from VQ Quantize Model or "
                "Load VQ Checkpoint"
            )
        if student.patches:
            raise VQError(
                f"student: found patches (a LoRA, a merge) on {len(student.patches)} weights, expected none: "
                "put them after VQ Fine-tune"
            )
        self.model: VQModel = origin.read()
        self._teacher = teacher
        self._dtype: torch.dtype = student.model.get_dtype_inference()
        self._benches = [ComfyBench([prompt], settings, None, on_call) for prompt in prompts]
        self._patcher: ModelPatcher | None = None

    def sites(self) -> Sites:
        """A network of the student's own to learn in, loaded as a whole."""
        self._patcher = load(InMemory(self.model), disable_dynamic=True)
        comfy.model_management.load_models_gpu([self._patcher], force_full_load=True)
        return sites_of(self._patcher, self.model)

    def taught(self) -> list[list[Question]]:
        """What the sampler asked the teacher, prompt by prompt, with its answers."""
        return [self._recorded(self._teacher, bench) for bench in self._benches]

    def asked(self) -> list[list[Question]]:
        """What the sampler asks the student as it is now."""
        patcher = self._loaded()
        return [self._recorded(patcher, bench) for bench in self._benches]

    def answered(self, trajectories: list[list[Question]]) -> list[list[Question]]:
        """With the teacher's answers; then the student is loaded again."""
        answered = [[self._answered(question) for question in one] for one in trajectories]
        comfy.model_management.load_models_gpu([self._loaded()], force_full_load=True)
        return answered

    def _loaded(self) -> ModelPatcher:
        if self._patcher is None:
            raise RuntimeError("sites is asked for first")
        return self._patcher

    def _recorded(self, patcher: ModelPatcher, bench: ComfyBench) -> list[Question]:
        dtype = patcher.model.get_dtype_inference()
        with recorded(patcher.model.diffusion_model) as questions:
            bench.sample(patcher)
        if not questions:
            raise VQError(
                "the sampler never called the model's own network, expected calls to learn from; put "
                "torch.compile after VQ Fine-tune"
            )
        return [prepared(question, dtype, self._dtype) for question in questions]

    def _answered(self, question: Question) -> Question:
        teacher = self._teacher
        comfy.model_management.load_models_gpu([teacher])
        dtype = teacher.model.get_dtype_inference()
        asked = prepared(question, self._dtype, dtype)
        with torch.inference_mode():
            answer = asked.ask(teacher.model.diffusion_model, teacher.load_device)
        with torch.inference_mode(False):
            return replace(question, answer=answer.to("cpu", self._dtype, copy=True).clone())


def sites_of(patcher: ModelPatcher, model: VQModel) -> Sites:
    """Where a MODEL that was loaded from ``model`` holds its parts."""
    network = patcher.model.diffusion_model
    held = {weight.key: weight for weight in held_weights(network)}
    shapes = {key: weight.tensor.shape for key, weight in held.items()}
    names, _, _ = saved_names(patcher, shapes)
    coded: dict[str, tuple[nn.Module, Multiply]] = {}
    dense: dict[str, tuple[nn.Module, str]] = {}
    for key, weight in held.items():
        name, module = names[key], weight.module
        layer = name.removesuffix(".weight")
        if isinstance(module, CodedWeight) and weight.name == "weight" and is_coded(weight.tensor):
            if layer in model.layers:
                coded[layer] = (module, module._multiply_dense)
        elif name in model.dense and weight.name in module._parameters:
            dense[name] = (module, weight.name)
    return Sites(network, patcher.load_device, coded, dense)


@contextmanager
def learning_allowed() -> Iterator[None]:
    """What the host runs nodes in forbids gradients; some of its models write in place unless told."""
    flagged = hasattr(comfy.model_management, "in_training")
    before = getattr(comfy.model_management, "in_training", False)
    try:
        if flagged:
            comfy.model_management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if flagged:
            comfy.model_management.in_training = before


def prepared(question: Question, dtype: torch.dtype, wanted: torch.dtype) -> Question:
    """For a network that computes in ``wanted``, from one that computes in ``dtype``."""
    kwargs = dict(question.kwargs)
    options: dict[str, Any] = dict(kwargs.get("transformer_options") or {})
    plain = not any(options.get(name) for name in _PATCHES)
    plain = plain and not options.get("wrappers", {}).get(_INNER)
    if plain:
        drop = (*_PER_CALL, "wrappers", "callbacks")
        kwargs["transformer_options"] = {k: v for k, v in options.items() if k not in drop}
    args = question.args
    if dtype != wanted:

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(wanted) if tensor.dtype == dtype else tensor

        args, kwargs = mapped((args, kwargs), cast)
    return replace(question, args=args, kwargs=kwargs, plain=plain)
