"""Adapters of every kind that ComfyUI's LoRA loaders read, with random weights, in the form of a file."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Shape = tuple[int, ...]
Make = Callable[[Shape, int, torch.Generator], dict[str, Tensor]]
"""From a weight's shape, ``[out, in]`` or ``[out, in, kh, kw]``, and a rank to tensors by ending."""

BESIDE = ("lora", "lora without alpha", "tucker lora")
"""Kinds that run beside a coded weight; the others change it each time it is decoded."""

EFFECT = 1.0
"""About how much of a weight the change is."""


def _normal(shape: Shape, generator: torch.Generator, deviation: float) -> Tensor:
    return torch.randn(shape, generator=generator) * deviation


def _pair(shape: Shape, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Up ``[out, rank]`` and down ``[rank, columns]`` whose product is a small part of a weight."""
    columns = math.prod(shape[1:])
    up = _normal((shape[0], rank), generator, 1.0)
    return up, _normal((rank, columns), generator, EFFECT / math.sqrt(rank * columns))


def _plain(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    up, down = _pair(shape, rank, generator)
    ones = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": up.reshape(shape[0], rank, *ones),
        "lora_down.weight": down.reshape(rank, *shape[1:]),
    }


def _lora(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {**_plain(shape, rank, generator), "alpha": torch.tensor(rank / 2)}


def _tucker(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    kernel = shape[2:]
    up = _normal((shape[0], rank, 1, 1), generator, 1.0)
    down = _normal((rank, shape[1], 1, 1), generator, EFFECT / math.sqrt(math.prod(shape[1:])))
    middle = _normal((rank, rank, *kernel), generator, 1 / rank)
    return {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": middle}


def _dora(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    scale = 1 + _normal((shape[0], *(1,) * (len(shape) - 1)), generator, 0.1)
    return {**_plain(shape, rank, generator), "dora_scale": scale}


def _loha(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    first, second = _pair(shape, rank, generator), _pair(shape, rank, generator)
    return {
        "hada_w1_a": first[0],
        "hada_w1_b": first[1],
        "hada_w2_a": second[0],
        "hada_w2_b": second[1] / EFFECT * math.sqrt(math.prod(shape[1:])),
        "alpha": torch.tensor(float(rank)),
    }


def _lokr(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    factor = 4
    small = _normal((factor, factor), generator, 1.0)
    rest = (shape[0] // factor, shape[1] // factor, *shape[2:])
    large = _normal(rest, generator, EFFECT / math.sqrt(math.prod(shape[1:])))
    return {"lokr_w1": small, "lokr_w2": large}


def _glora(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    # What multiplies a convolution's weight mixes its input channels, at each tap alike.
    up, down = _pair(shape, rank, generator)
    left = _normal((shape[1], rank), generator, 1 / math.sqrt(shape[1]))
    right = _normal((rank, shape[1]), generator, EFFECT)
    return {"a1.weight": left, "a2.weight": right, "b1.weight": up, "b2.weight": down}


def _oft(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    size = 8
    return {"oft_blocks": _normal((shape[0] // size, size, size), generator, EFFECT)}


def _boft(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    size, stages = 4, 2
    blocks = _normal((stages, shape[0] // size, size, size), generator, EFFECT)
    return {"oft_blocks": blocks, "alpha": torch.tensor(16.0)}


def _difference(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"diff": _normal(shape, generator, EFFECT / math.sqrt(math.prod(shape[1:])))}


def _set(shape: Shape, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {"set_weight": _normal(shape, generator, 1 / math.sqrt(math.prod(shape[1:])))}


KINDS: dict[str, Make] = {
    "lora": _lora,
    "lora without alpha": _plain,
    "tucker lora": _tucker,
    "dora": _dora,
    "loha": _loha,
    "lokr": _lokr,
    "glora": _glora,
    "oft": _oft,
    "boft": _boft,
    "diff": _difference,
    "set": _set,
}
FOR_CONVOLUTIONS = ("tucker lora",)


def adapter(kind: str, shapes: dict[str, Shape], rank: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """An adapter as its file holds it.

    Args:
        kind: of ``KINDS``.
        shapes: of the weights that it changes, by the names that adapters have for them.
        rank: of its factors, where it has any.
    """
    generator = torch.Generator().manual_seed(seed)
    made = {name: KINDS[kind](tuple(shape), rank, generator) for name, shape in shapes.items()}
    return {f"{name}.{ending}": t for name, parts in made.items() for ending, t in parts.items()}
