"""From a VQModel to a ComfyUI MODEL, through the host's own loader.

The loader is given a state dict whose coded weights report their logical shapes, so that it
detects, builds and fills the model as it would from the dense checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .... import checkpoint
from ....ahead import Ahead
from ....errors import VQError
from ....model import VQModel
from .layout import is_coded, pending
from .ops import CodedWeight, VQOperations
from .patcher import hold_codes
from .whole import expose_weights

_KEY = "comfy_vq"


class Origin(Protocol):
    """Where a MODEL's coded weights come from, so that they can be saved or loaded again."""

    def read(self) -> VQModel: ...


@dataclass(frozen=True)
class FromFile:
    """A VQ checkpoint on disk."""

    path: str

    def read(self) -> VQModel:
        return checkpoint.load(self.path)


@dataclass(frozen=True, eq=False)
class InMemory:
    """A quantization that was not saved."""

    model: VQModel

    def read(self) -> VQModel:
        return self.model


def load_file(path: str) -> ModelPatcher:
    """A MODEL from a VQ checkpoint. Raises VQError for a file that is not a valid one."""
    return load(FromFile(path))


def load(origin: Origin, disable_dynamic: bool = False) -> ModelPatcher:
    """A MODEL that holds its coded weights as they are; the dense model is never built.

    Args:
        origin: read once here, and again when the host wants a fresh copy of the model.
        disable_dynamic: asked for by the host where a feature cannot use its dynamic VRAM.

    Raises:
        VQError: the host recognizes no diffusion model in it.
    """
    vq = origin.read()
    patcher = comfy.sd.load_diffusion_model_state_dict(
        state_dict_of(vq),
        model_options={"custom_operations": VQOperations},
        metadata=dict(vq.source.metadata),
        disable_dynamic=disable_dynamic,
    )
    if patcher is None:
        raise VQError(
            f"{vq.source.name}: this ComfyUI recognizes no diffusion model in the {len(vq.layers)} coded "
            f"and {len(vq.dense)} dense layers; update ComfyUI, or quantize the model from within it"
        )
    settle(patcher.model)
    expose_weights(patcher.model)
    mark(patcher, origin)
    return patcher


def mark(
    patcher: ModelPatcher, origin: Any, load_again: Callable[..., ModelPatcher] | None = None
) -> None:
    """Make ``patcher`` known as one of coded weights that come from ``origin``.

    Args:
        load_again: how the host is to load a fresh copy; ``load`` unless it is another kind of model.
    """
    patcher.set_attachments(_KEY, origin)
    hold_codes(patcher)
    patcher.cached_patcher_init = (load_again or load, (origin,))


def prepared(
    patcher: ModelPatcher, prepare: Callable[..., ModelPatcher], *arguments: Any
) -> ModelPatcher:
    """``prepare(patcher, *arguments)``, and the same of every copy that the host loads anew."""
    again = (*patcher.cached_patcher_init, prepare, arguments)
    patcher = prepare(patcher, *arguments)
    patcher.cached_patcher_init = (_load_prepared, again)
    return patcher


def _load_prepared(
    load_again: Callable[..., ModelPatcher],
    known: tuple[Any, ...],
    prepare: Callable[..., ModelPatcher],
    arguments: tuple[Any, ...],
    **options: Any,
) -> ModelPatcher:
    return prepared(load_again(*known, **options), prepare, *arguments)


def keep_decoded(patcher: ModelPatcher, megabytes: int) -> ModelPatcher:
    """The VQ MODEL ``patcher``, which uses so much memory to keep weights decoded, small ones first."""
    return prepared(patcher, _keep_decoded, megabytes) if megabytes > 0 else patcher


def _keep_decoded(patcher: ModelPatcher, megabytes: int) -> ModelPatcher:
    for layer in patcher.model.modules():
        if isinstance(layer, CodedWeight) and layer.slot is not None:
            layer.slot.ahead.spare = megabytes * 10**6
    return patcher


def origin_of(patcher: ModelPatcher) -> Origin | None:
    """Where the coded weights of a MODEL come from; None if it is not a VQ MODEL."""
    return patcher.get_attachment(_KEY)


def state_dict_of(vq: VQModel) -> dict[str, Tensor]:
    """What the host's loaders are given."""
    coded = {f"{name}.weight": pending(weight) for name, weight in vq.layers.items()}
    return {**vq.dense, **coded, **vq.source.root}


def settle(model: torch.nn.Module) -> None:
    """Make each set be listed by one layer, and decode what no layer of ours holds."""
    listed: set[str] = set()
    ahead = Ahead()
    for layer in model.modules():
        if isinstance(layer, CodedWeight):
            if is_coded(layer.weight):
                layer.slot = ahead.slot()
                name = layer.weight.params.set_name
                layer.owns_codebooks = name not in listed
                listed.add(name)
            continue
        for name, parameter in layer._parameters.items():
            if is_coded(parameter):
                dense = torch.nn.Parameter(parameter.dequantize(), requires_grad=False)
                layer._parameters[name] = dense
