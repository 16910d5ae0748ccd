"""A MODEL with its weights rounded to bfloat16."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....model import VQModel
from ..model.carry import carry_over
from ..model.loader import InMemory, load
from ..model.source import ModelSource


def rounded(patcher: ModelPatcher) -> ModelPatcher:
    """A dense MODEL, its patches applied, in bfloat16; otherwise it behaves as ``patcher``.

    Raises:
        VQError: see ``ModelSource``.
    """
    source = ModelSource(patcher)
    dense = {key: _half(source.read(key)) for key in source.keys()}  # noqa: SIM118
    origin = InMemory(VQModel({}, dense, source.source))
    return carry_over(patcher, load(origin), origin)


def _half(tensor: Tensor) -> Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() else tensor
