"""VQDM's protocol through the host: its networks, and its sampler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...checkpoint import write_dense
from ...errors import VQError
from ...finetune.questions import Question, mapped, recorded
from ...finetune.student import Sites
from ...model import VQModel
from ...probe import exchange
from ...protocol.run import Result
from .evaluation.bench import ComfyBench, Prompt, Settings, again
from .finetuning import learning_allowed, prepared
from .model.loader import InMemory, load
from .model.ops import CodedWeight, VQOperations
from .model.source import ModelSource, held_weights


class ComfyHost:
    """See ``protocol.run.Host``: private copies of a MODEL in the host's own modules.

    Args:
        teacher: a dense MODEL; it is not changed.
        prompts: at least one; they come again, with other seeds, as often as needed.
        settings: how to sample.
        on_call: called after every evaluation of a network while sampling; may raise to stop.

    Raises:
        VQError: see ``ModelSource``.
    """

    def __init__(
        self,
        teacher: ModelPatcher,
        prompts: Sequence[Prompt],
        settings: Settings,
        on_call: Callable[[], object],
    ) -> None:
        self._teacher, self._prompts, self._settings = teacher, prompts, settings
        self._on_call = on_call
        self.source = ModelSource(teacher)
        self.rows = 1 if settings.cfg == 1 else 2
        self.device = teacher.load_device
        self.shapes: Mapping[str, tuple[int, ...]] = {
            name: self.source.shape(f"{name}.weight") for name in self.source.layers()
        }
        self._student: ModelPatcher | None = None
        self._modules: dict[str, nn.Module] = {}

    @property
    def numel(self) -> int:
        """Weights of the whole model."""
        shapes = map(self.source.shape, self.source.keys())
        return sum(torch.Size(shape).numel() for shape in shapes)

    def layers(self) -> Mapping[str, nn.Module]:
        if self._student is None:
            dense = {key: self.source.read(key) for key in self.source.keys()}  # noqa: SIM118
            self._student = load(
                InMemory(VQModel({}, dense, self.source.source)), disable_dynamic=True
            )
            comfy.model_management.load_models_gpu([self._student], force_full_load=True)
            network = self._student.model.diffusion_model
            self._modules = {
                name: network.get_submodule(self.source.module(f"{name}.weight"))
                for name in self.shapes
            }
        return self._modules

    def read(self, layer: str) -> Tensor:
        return self.source.read(f"{layer}.weight")

    def put(self, layer: str, weight: Tensor) -> None:
        exchange(self.layers()[layer], weight.detach())

    def sample(self, turn: int, count: int) -> None:
        self.layers()
        assert self._student is not None
        prompts = [again(self._prompts, i, turn * count + i) for i in range(count)]
        ComfyBench(prompts, self._settings, on_call=self._on_call).sample(self._student)

    def taught(self, first: int, count: int) -> list[Question]:
        dtype = self._teacher.model.get_dtype_inference()
        found: list[Question] = []
        for number in range(first, first + count):
            prompt = again(self._prompts, number, number)
            with recorded(self._teacher.model.diffusion_model) as questions:
                ComfyBench([prompt], self._settings, on_call=self._on_call).sample(self._teacher)
            found += _sharing([prepared(question, dtype, dtype) for question in questions])
        return found

    def sites(self, coded: Collection[str]) -> Sites:
        """The network that was sampled from is let go."""
        self._student, self._modules = None, {}
        patcher = self._in_float32()
        network = patcher.model.diffusion_model
        layers, dense = {}, {}
        keys = {  # by module and leaf
            (self.source.module(key), key.rpartition(".")[2]): key
            for key in self.source.keys()  # noqa: SIM118
        }
        for held in held_weights(network):
            key, module = keys[held.key.rpartition(".")[0], held.name], held.module
            layer = key.removesuffix(".weight")
            if layer in coded:
                assert isinstance(module, CodedWeight)
                layers[layer] = (module, module._multiply_dense)
            elif held.name in module._parameters and held.tensor.is_floating_point():
                dense[key] = (module, held.name)
        return Sites(network, patcher.load_device, layers, dense)

    def learning(self) -> AbstractContextManager[None]:
        return learning_allowed()

    def _in_float32(self) -> ModelPatcher:
        tensors = {key: self.source.read(key).float() for key in self.source.keys()}  # noqa: SIM118
        patcher = comfy.sd.load_diffusion_model_state_dict(
            {**tensors, **self.source.source.root},
            model_options={"custom_operations": VQOperations, "dtype": torch.float32},
            metadata=dict(self.source.source.metadata),
            disable_dynamic=True,
        )
        if patcher is None:
            raise VQError(
                f"{self.source.source.name}: this ComfyUI recognizes no diffusion model in its own weights; "
                "update ComfyUI"
            )
        comfy.model_management.load_models_gpu([patcher], force_full_load=True)
        return patcher


def write_result(path: Path, source: ModelSource, result: Result) -> None:
    """Write what VQDM made as a dense file in half precision, under the keys that the host saves.

    Raises:
        VQError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = dict(source.source.root)
    for key in source.keys():  # noqa: SIM118 - not a mapping
        coded = result.weights.get(key.removesuffix(".weight"))
        dense = result.dense.get(key)
        weight = source.read(key) if dense is None else dense
        if coded is not None:
            weight = coded.dense().detach()
        if weight.is_floating_point():
            weight = weight.half()
        tensors[source.source.prefix + key] = weight.contiguous()
    write_dense(path, tensors, source.source.metadata)


def _sharing(questions: Sequence[Question]) -> list[Question]:
    """With one copy of what the steps of a trajectory have in common, such as the text."""
    found: list[Question] = []
    before: list[Tensor] = []
    for question in questions:
        now: list[Tensor] = []

        def shared(
            tensor: Tensor, before: list[Tensor] = before, now: list[Tensor] = now
        ) -> Tensor:
            alike = (t for t in before if t.shape == tensor.shape and torch.equal(t, tensor))
            now.append(next(alike, tensor))
            return now[-1]

        args, kwargs = mapped((question.args, question.kwargs), shared)
        found.append(replace(question, args=args, kwargs=kwargs))
        before = now
    return found
