"""What layers are given that see nothing but the time step: known without any data.

A UNet of Stable Diffusion's kind makes sinusoids of the time step, two layers make an embedding of
them, and one layer in each residual block reads it. All of that can be computed for every time step
from the weights alone, and so can the second moments of what goes into these layers: they are those
of a curve, with a few directions that matter, and so feedback of errors (``codecs.feedback``) gains
more here than anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .codecs.threads import one_thread
from .plan.families import unet_name

STEPS = 1000
"""Time steps that a model is trained on."""
_MAX_PERIOD = 10000
_FIRST, _SECOND = "time_embed.0", "time_embed.2"
_READERS = ".emb_layers.1"
_CONDITIONED = ("time_embed.cond_proj", "time_embedding.cond_proj")
_ADDED = ("label_emb", "class_embedding", "add_embedding")
"""What else goes into the sinusoids and into the embedding, which is not known without data."""


class Weights(Protocol):
    """See ``quantize.WeightSource``."""

    def keys(self) -> Iterable[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def read(self, key: str) -> Tensor: ...


@dataclass(frozen=True)
class TimeLayers:
    """Layers that see nothing but the time step.

    Attributes:
        first, second: that make the embedding.
        readers: of the embedding, in residual blocks.
    """

    first: str
    second: str
    readers: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.first, self.second, *self.readers


def layers_of_time(weights: Weights) -> TimeLayers | None:
    """Found by their names and shapes; None in models of another kind.

    Without readers where a class or a pooled prompt goes into the embedding as well.
    """
    keys = set(weights.keys())
    biased = (key.removesuffix(".bias") for key in keys if key.endswith(".bias"))
    names = {unet_name(layer): layer for layer in biased}
    first, second = names.get(_FIRST), names.get(_SECOND)
    if first is None or second is None or any(key.startswith(_CONDITIONED) for key in keys):
        return None
    if any(key.startswith(_ADDED) for key in keys):
        return TimeLayers(first, second, ())
    width = weights.shape(f"{second}.weight")[0]
    readers = (layer for name, layer in names.items() if name.endswith(_READERS))
    fitting = (layer for layer in readers if weights.shape(f"{layer}.weight")[1] == width)
    return TimeLayers(first, second, tuple(sorted(fitting)))


@one_thread()
def moments_of_time(weights: Weights) -> dict[str, Tensor]:
    """Second moments of the inputs of the layers that see nothing but the time step.

    Args:
        weights: of a whole model. Of two layers those before the readers are read.

    Returns:
        float32 ``[1, width, width]`` by layer, as ``codecs.encode`` takes moments, over all time
        steps alike; layers that see the same share the tensor. Empty for models of another kind,
        without the readers where a class or a pooled prompt goes into the embedding as well.
    """
    layers = layers_of_time(weights)
    if layers is None:
        return {}
    seen = sinusoids(weights.shape(f"{layers.first}.weight")[1])
    found = {layers.first: _moments(seen)}
    seen = F.silu(_through(weights, layers.first, seen))
    found[layers.second] = _moments(seen)
    if layers.readers:
        seen = F.silu(_through(weights, layers.second, seen))
        found |= dict.fromkeys(layers.readers, _moments(seen))
    return {layer: moments for layer, moments in found.items() if bool(moments.any())}


def sinusoids(width: int) -> Tensor:
    """Embeddings of all time steps, float32 ``[STEPS, width]``: cosines, then sines (width even)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(_MAX_PERIOD) / half))
    angles = torch.arange(STEPS)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), 1)


def _through(weights: Weights, layer: str, x: Tensor) -> Tensor:
    read = (weights.read(f"{layer}.{part}").to("cpu", torch.float32) for part in ("weight", "bias"))
    return F.linear(x, *read)


def _moments(x: Tensor) -> Tensor:
    """``[1, width, width]`` of ``[n, width]``."""
    x = x.double()
    return (x.T @ x / len(x)).float()[None]
