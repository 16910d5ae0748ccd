"""How large a diffusion model is, in whatever format the host holds or stores it."""

from __future__ import annotations

from comfy.model_management import module_size
from comfy.model_patcher import ModelPatcher

from ....evaluation.bench import Size
from ..model.source import held_weights


def logical_numel(patcher: ModelPatcher) -> int:
    """Weights of the diffusion model: of a packed one those that it stands for.

    What describes a format (scales, codebooks) does not count.
    """
    return sum(weight.tensor.numel() for weight in held_weights(patcher.model.diffusion_model))


def size_of(patcher: ModelPatcher) -> Size:
    """A MODEL as the host holds it, scales and codebooks included.

    On a CPU the host widens half precision to float32, and that is what is counted.
    """
    return Size(module_size(patcher.model.diffusion_model), logical_numel(patcher))
