"""From coded text encoders to a ComfyUI CLIP, through the host's own classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import comfy.sd
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .... import checkpoint
from ....checkpoint.encoders import by_encoder
from ....errors import VQError
from ....model import Component, VQModel
from ..model.loader import mark, settle, state_dict_of
from ..model.ops import VQOperations
from .types import MODEL, TOKENIZER, about, class_name, clip_type, held

_INSTEAD = "update ComfyUI, or use VQ Quantize CLIP within the workflow, without a file"


class ClipOrigin(Protocol):
    """Where the weights of a CLIP come from, so that they can be saved or loaded again."""

    def read(self) -> Component: ...

    def build(self, component: Component, disable_dynamic: bool) -> comfy.sd.CLIP: ...


@dataclass(frozen=True)
class ClipFile:
    """A VQ file on disk that holds text encoders."""

    path: str

    def read(self) -> Component:
        return checkpoint.load_component(self.path, checkpoint.CLIP)

    def build(self, component: Component, disable_dynamic: bool) -> comfy.sd.CLIP:
        weights = state_dict_of(component.model)
        options = _options(component.model)
        clip = build_from_files(self.path, component, weights, options, disable_dynamic)
        _, others = by_encoder(weights)
        clip.cond_stage_model.load_state_dict({key: weights[key] for key in others}, strict=False)
        return clip


@dataclass(frozen=True, eq=False)
class ClipInMemory:
    """A quantization that was not saved, and the host's classes that the dense CLIP was made of."""

    component: Component
    model_class: type
    tokenizer: Any
    devices: Mapping[str, torch.device]

    def read(self) -> Component:
        return self.component

    def build(self, component: Component, disable_dynamic: bool) -> comfy.sd.CLIP:
        model = component.model
        return comfy.sd.CLIP(
            _Target(self.model_class, lambda **_: self.tokenizer, {}),
            parameters=model.numel,
            state_dict=state_dict_of(model),
            model_options={**_options(model), **self.devices},
            disable_dynamic=disable_dynamic,
        )


@dataclass(frozen=True)
class _Target:
    """What the host makes a CLIP of."""

    clip: Any
    tokenizer: Any
    params: dict[str, Any]


def load_clip_file(path: str) -> comfy.sd.CLIP:
    """A CLIP from a VQ file.

    Raises:
        VQError: the file is not a valid one, holds no text encoders, or those of a kind that this
            ComfyUI does not know.
    """
    return load_clip(ClipFile(path))


def load_clip(origin: ClipOrigin, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """A CLIP that holds its coded weights as they are; the dense model is never built.

    Args:
        origin: read once here, and again when the host wants a fresh copy of the model.
        disable_dynamic: asked for by the host where a feature cannot use its dynamic VRAM.
    """
    component = origin.read()
    clip = origin.build(component, disable_dynamic)
    # Where it computes on the device that it is built on, the host has loaded and counted it.
    comfy.model_management.unload_model_and_clones(clip.patcher)
    clip.patcher.size = 0
    _check(clip, component)
    settle(clip.cond_stage_model)
    clip.patcher.cached_patcher_init = (load_clip_patcher, (origin,))
    if component.model.layers:
        mark(clip.patcher, origin, load_clip_patcher)
    return clip


def load_clip_patcher(origin: ClipOrigin, disable_dynamic: bool = False) -> ModelPatcher:
    """What the host calls to load the CLIP anew."""
    return load_clip(origin, disable_dynamic).patcher


def build_from_files(
    where: str,
    component: Component,
    weights: Mapping[str, Tensor],
    options: dict[str, Any],
    disable_dynamic: bool = False,
) -> comfy.sd.CLIP:
    """A CLIP as the host builds one from a file for each encoder.

    Args:
        where: the file, for messages.
        component: tells what the host is to build.
        weights: by the names of the host's model of all encoders.
        options: of the host.

    Raises:
        VQError: the kind of CLIP is not known, or this ComfyUI builds something else of it.
    """
    kind, root = clip_type(where, component.about), component.model.source.root
    encoders, _ = by_encoder(model_keys(component.model))
    # A tokenizer's data lies in the file of its encoder, of which the host takes the first.
    files = [{**root, **{own: weights[key] for own, key in k.items()}} for k in encoders.values()]
    try:
        clip = comfy.sd.load_text_encoder_state_dicts(
            files,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=kind,
            model_options=options,
            disable_dynamic=disable_dynamic,
        )
    except comfy.model_management.OOM_EXCEPTION:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        # Taken for other encoders than they are, they do not fit.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise VQError(
            f"{where}: text encoders of type {kind.name.lower()!r}, {component.about.get(MODEL)}: this ComfyUI "
            f"cannot build them from files ({reason}); {_INSTEAD}"
        ) from error
    built = {MODEL: type(clip.cond_stage_model), TOKENIZER: type(clip.tokenizer)}
    for name, cls in built.items():
        if class_name(cls) != component.about.get(name):
            raise VQError(
                f"{where}: {name} of the text encoders: found {component.about.get(name)!r}, but of type "
                f"{kind.name.lower()!r} this ComfyUI makes {class_name(cls)!r}; {_INSTEAD}"
            )
    return clip


def refuse_unbuildable(component: Component) -> None:
    """Refuse what could not be loaded again, by building it without its weights.

    Raises:
        VQError: see ``build_from_files``; or the model would hold other weights.
    """
    model, meta = component.model, torch.device("meta")
    sizes = {key: (tensor.shape, tensor.dtype) for key, tensor in model.dense.items()}
    sizes |= {f"{name}.weight": (w.shape, w.dtype) for name, w in model.layers.items()}
    empty = {
        key: torch.empty(shape, dtype=dtype, device=meta) for key, (shape, dtype) in sizes.items()
    }
    options = {"initial_device": meta, "dtype": _dtype(model.dense.values()) or torch.float16}
    _check(build_from_files(model.source.name, component, empty, options), component)


def model_keys(model: VQModel) -> list[str]:
    """All weights of a CLIP, under the names that the host's model has for them."""
    return [*model.dense, *(f"{layer}.weight" for layer in model.layers)]


def _options(model: VQModel) -> dict[str, Any]:
    """Options of the host for a model of these weights."""
    options: dict[str, Any] = {"initial_device": torch.device("cpu")}
    if model.layers:
        options["custom_operations"] = VQOperations
    dtype = _dtype(model.dense.values())
    return options if dtype is None else {**options, "dtype": dtype}


def _dtype(tensors: Any) -> torch.dtype | None:
    """Of the largest dense tensor, a token table: what else is not coded goes along with it."""
    floating = [t for t in tensors if t.is_floating_point() and t.dtype.itemsize > 1]
    return max(floating, key=Tensor.numel).dtype if floating else None


def _check(clip: comfy.sd.CLIP, component: Component) -> None:
    """Refuse a model that does not hold just what was stored."""
    stored, built = set(model_keys(component.model)), held(clip.cond_stage_model)
    if stored == built:
        return
    missing, unknown = sorted(built - stored), sorted(stored - built)
    example = f"{missing[0]} is not stored" if missing else f"{unknown[0]} has no place"
    raise VQError(
        f"{component.model.source.name}: text encoders {about(clip)[MODEL]}: this ComfyUI's model differs from the "
        f"one that was stored in {len(missing) + len(unknown)} weights; {example}; update ComfyUI"
    )
