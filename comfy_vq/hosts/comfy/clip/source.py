"""The dense weights of a ComfyUI CLIP, one at a time, with its patches applied."""

from __future__ import annotations

import os

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd1_clip import SDClipModel
from comfy.sdxl_clip import SDXLClipModel
from torch import Tensor, nn

from ....errors import VQError
from ....model import Source
from ..model.source import PatchedSource, held_weights, refuse_unfit
from .types import class_name


class EncoderSource(PatchedSource):
    """Weights of the host's model of all text encoders of a CLIP.

    Attributes:
        tables: token and position tables, which stay dense.
    """

    def __init__(self, patcher: ModelPatcher, model: nn.Module) -> None:
        weights = {weight.key: weight for weight in held_weights(model)}
        super().__init__(patcher, weights)
        self.tables = [k for k, w in weights.items() if isinstance(w.module, nn.Embedding)]

    @property
    def table_bytes(self) -> int:
        return sum(self._numel(key) * self.dtype(key).itemsize for key in self.tables)

    @property
    def table_numel(self) -> int:
        return sum(self._numel(key) for key in self.tables)

    def _numel(self, key: str) -> int:
        return torch.Size(self.shape(key)).numel()


class ClipSource(EncoderSource):
    """A source of weights for ``quantize``, under the names of the host's model of all encoders.

    The CLIP is not changed: it is unloaded, and each weight is read and patched into a copy.

    Raises:
        VQError: the CLIP is quantized by us already, holds no text encoder, or carries a LoRA that
            runs beside the weights and cannot be baked into them.
    """

    def __init__(self, clip: comfy.sd.CLIP) -> None:
        _refuse_unfit(clip)
        comfy.model_management.unload_model_and_clones(clip.patcher)
        super().__init__(clip.patcher, clip.cond_stage_model)
        self._idle = _idle_projections(clip.cond_stage_model)
        root = {k: v for k, v in clip.tokenizer.state_dict().items() if torch.is_tensor(v)}
        self.source = Source(name=_name(clip), root=root)

    def read(self, key: str) -> Tensor:
        """As of any model; of a projection that nothing uses, the identity."""
        if key in self._idle:
            return torch.eye(*self.shape(key), dtype=self.dtype(key))
        return super().read(key)


def _idle_projections(model: nn.Module) -> set[str]:
    """Keys of projections of a pooled vector that nothing reads.

    Where a file lacks one, as those of Stable Diffusion 1 and XL do, the host leaves the weight
    uninitialized: whatever was in memory, NaN included.
    """
    idle = set()
    for name, encoder in model.named_children():
        if not isinstance(encoder, SDClipModel) or not hasattr(
            encoder.transformer, "text_projection"
        ):
            continue
        *_, projected = encoder.options_default
        if not projected or (isinstance(model, SDXLClipModel) and encoder is model.clip_l):
            idle.add(f"{name}.transformer.text_projection.weight")
    return idle


def _refuse_unfit(clip: comfy.sd.CLIP) -> None:
    refuse_unfit(clip.patcher, "CLIP", "CLIP", "VQ Quantize CLIP")
    if not any(True for _ in clip.cond_stage_model.parameters()):
        raise VQError(
            f"this CLIP ({type(clip.cond_stage_model).__name__}) holds no text encoder, there is nothing to "
            "quantize: connect the CLIP of a text encoder"
        )


def _name(clip: comfy.sd.CLIP) -> str:
    """Of the files that the host loaded it from, where it remembers them."""
    _, arguments, *_ = clip.patcher.cached_patcher_init or (None, ())
    first = arguments[0] if arguments else None
    paths = first if isinstance(first, (list, tuple)) else [first]
    names = [os.path.basename(path) for path in paths if isinstance(path, str)]
    return " + ".join(names) or class_name(type(clip.cond_stage_model))
