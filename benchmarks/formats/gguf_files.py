"""GGUF files of UNets: as ComfyUI-GGUF's tools make them, and in a way that favours GGUF.

What its `tools/convert.py` and its patch of llama-quantize do to a model of the SD1 or SDXL family,
read in November 2026: rows that are no multiple of 256 long are cut anew into rows of 256, with the
original shape noted; what has two dimensions then is quantized, but for time and class embeddings and
the first and last convolution; a type that does not fit the rows even so becomes F16; and the mixed
types of llama.cpp keep a finer one for some layers. All of IQ is refused. The rest stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from comfy_vq.quantize import WeightSource

from . import ggml
from .format import Make, coded

_ROW = 256
_SMALLEST = 512
_KEPT = (
    "class_embedding.",
    "time_embedding.",
    "add_embedding.",
    "time_embed.",
    "label_emb.",
    "conv_in.",
    "conv_out.",
)
_KEPT_WHOLE = ("input_blocks.0.0.weight", "out.2.weight")
_VALUES = (".to_v.weight", "attn_v.weight", ".v.weight")
_SECOND = (".ff.net.2.weight", "ffn_down")


@dataclass(frozen=True)
class Mix:
    """What a mixed type makes of a layer.

    Attributes:
        base: type of most layers.
        values: of projections to attention's values.
        first_values: how many of these, from the front; None for all.
        second: of the second matrix of a feed-forward block.
    """

    base: str
    values: str | None = None
    first_values: int | None = None
    second: str | None = None


MIXES = {
    "Q8_0": Mix("Q8_0"),
    "Q5_K_S": Mix("Q5_K"),
    "Q4_K_S": Mix("Q4_K", values="Q5_K", first_values=4, second="Q5_K"),
    "Q4_0": Mix("Q4_0", second="Q4_1"),
    "Q3_K_S": Mix("Q3_K"),
    "Q2_K": Mix("Q2_K", values="Q3_K"),
}


@dataclass(frozen=True)
class Placed:
    """How a tensor is stored.

    Attributes:
        kind: GGUF's type; None for as it is.
        width: of its rows as stored; None for its own.
    """

    kind: str | None = None
    width: int | None = None


AS_IT_IS = Placed()
Rule = Callable[[WeightSource], Iterator[tuple[str, Placed]]]


def as_comfyui_gguf(mix: Mix) -> Rule:
    """See the module; of one type that llama-quantize offers."""

    def rule(weights: WeightSource) -> Iterator[tuple[str, Placed]]:
        values = 0
        for key in weights.keys():  # noqa: SIM118 - not a mapping
            width = _rearranged(weights.shape(key))
            if not _quantized(key, weights.shape(key), width):
                yield key, Placed(None, width)
                continue
            kind = mix.base
            if key.endswith(_VALUES):
                if mix.values and (mix.first_values is None or values < mix.first_values):
                    kind = mix.values
                values += 1
            elif mix.second and any(part in key for part in _SECOND):
                kind = mix.second
            fits = (width or weights.shape(key)[-1]) % ggml.block_of(kind) == 0
            yield key, Placed(kind if fits else "F16", width)

    return rule


def flattened(kind: str) -> Rule:
    """One type for every layer that formats code here, all cut into rows that fit it."""

    def rule(weights: WeightSource) -> Iterator[tuple[str, Placed]]:
        for key in weights.keys():  # noqa: SIM118 - not a mapping
            fits = coded(weights, key) and math.prod(weights.shape(key)) % _ROW == 0
            yield key, Placed(kind, _ROW) if fits else AS_IT_IS

    return rule


def write(rule: Rule, uniform: bool = False) -> Make:
    """A GGUF file by a rule.

    ``uniform`` gives ggml an importance of one for every column: the squared error then, where it would
    guess that larger weights matter more, which measures worse.
    """

    def make(weights: WeightSource, path: Path) -> None:
        writer = gguf.GGUFWriter(path, "sd1")
        for key, placed in rule(weights):
            tensor = weights.read(key)
            if placed.width is not None:
                writer.add_array(f"comfy.gguf.orig_shape.{key}", list(tensor.shape))
                tensor = tensor.reshape(-1, placed.width)
            data, kind = _stored(tensor, placed.kind, uniform)
            writer.add_tensor(key, data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return make


def _stored(
    tensor: Tensor, kind: str | None, uniform: bool
) -> tuple[np.ndarray, GGMLQuantizationType | None]:
    if kind is None:
        return tensor.numpy(), None
    if kind == "F16":
        return tensor.half().numpy(), None
    importance = torch.ones(tensor.shape[-1]) if uniform else None
    return ggml.quantize(tensor.float(), kind, importance), GGMLQuantizationType[kind]


def _rearranged(shape: tuple[int, ...]) -> int | None:
    numel = math.prod(shape)
    if len(shape) > 1 and numel >= _SMALLEST and numel % _ROW == 0 and shape[-1] % _ROW:
        return _ROW
    return None


def _quantized(key: str, shape: tuple[int, ...], width: int | None) -> bool:
    if not key.endswith("weight") or key.endswith("_norm.weight"):
        return False
    if any(part in key for part in _KEPT) or key in _KEPT_WHOLE:
        return False
    return width is not None or len(shape) == 2
