"""What VQDM listens to: X^T X of a layer's inputs, of convolutions over whole windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..calibration.accumulators import LIMIT, Accumulators
from ..codecs.weight import matrix_shape
from ..errors import VQError

_ROWS = 512
_PER_COLUMN = 4
"""Inputs are gathered, as many as a fourth of the columns, so that not every call touches a large matrix."""
_ITEM = 8
_SHARE = 0.5
"""Of a graphics card's free memory, that sums may take."""


class Collector:
    """Sums ``x x^T`` in float64 while a network runs.

    Queries, keys and values of an attention have the same input, and share their sums.

    Args:
        layers: linear layers and 2d convolutions, by name.
        shapes: of their weights.
        device: where the network runs, and where the sums are kept if half of the free memory takes them.
        limit: bytes of main memory for sums elsewhere; what exceeds it lies in a temporary file.
    """

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        shapes: Mapping[str, tuple[int, ...]],
        device: torch.device | str = "cpu",
        limit: int = LIMIT,
    ) -> None:
        there = torch.device(device)
        needed = sums_bytes({name: shapes[name] for name in layers})
        if there.type == "cuda" and needed <= _SHARE * torch.cuda.mem_get_info(there)[0]:
            zeros = partial(torch.zeros, dtype=torch.float64, device=there)
        else:
            zeros = partial(Accumulators(limit).zeros, dtype=torch.float64)
        self._heard = {name: heard_at(name, layers) for name in layers}
        self._layers = {name: layers[name] for name in dict.fromkeys(self._heard.values())}
        self._sums = {}
        for name in self._layers:
            columns = matrix_shape(shapes[name])[1]
            self._sums[name] = zeros((columns, columns))
        self._counts = dict.fromkeys(self._layers, 0)
        self._waiting: dict[str, list[Tensor]] = {name: [] for name in self._layers}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While the block runs, whatever goes through the layers counts."""
        handles = []
        try:
            for name, layer in self._layers.items():
                handles.append(layer.register_forward_pre_hook(self._hook(name), with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
        for name in self._layers:
            self._add(name)

    def mean(self, name: str) -> Tensor:
        """``E[x x^T]``, float32 ``[columns, columns]``, in the order of ``codecs.weight.to_matrix``.

        Raises:
            VQError: nothing went through the layer, or something that is not finite.
        """
        heard = self._heard[name]
        if not self._counts[heard]:
            raise VQError(
                f"layer {name}: it was never used while sampling, expected inputs to code it for"
            )
        mean = (self._sums[heard] / self._counts[heard]).float()
        if not bool(torch.isfinite(mean).all()):
            raise VQError(
                f"layer {name}: found NaN or Inf in its input, expected finite values; sample a picture "
                "with these settings to see whether the model works"
            )
        return mean

    def _hook(self, name: str) -> Any:
        def see(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            with torch.inference_mode(False), torch.no_grad():
                self._waiting[name].append(windows(layer, x.detach().clone().float()))
                enough = max(_ROWS, len(self._sums[name]) // _PER_COLUMN)
                if sum(map(len, self._waiting[name])) >= enough:
                    self._add(name)

        return see

    def _add(self, name: str) -> None:
        waiting, self._waiting[name] = self._waiting[name], []
        if not waiting:
            return
        rows, sums = torch.cat(waiting).double(), self._sums[name]
        self._counts[name] += len(rows)
        if rows.device == sums.device:
            sums.addmm_(rows.T, rows)
        else:
            sums += (rows.T @ rows).to(sums.device)


def windows(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer multiplies the rows of its weight with, ``[n, columns]``.

    Args:
        layer: a linear layer, or a 2d convolution, whose columns are its taps with the input fastest.
        x: ``[..., in]``, or ``[batch, in, height, width]`` of a convolution.
    """
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])
    assert not isinstance(layer.padding, str)
    unfolded = F.unfold(
        x, layer.kernel_size, layer.dilation, padding=layer.padding, stride=layer.stride
    )
    by_tap = unfolded.unflatten(1, (x.shape[1], -1))  # [batch, in, taps, places]
    return by_tap.permute(0, 3, 2, 1).flatten(2).flatten(0, 1)


def heard_at(name: str, layers: Mapping[str, Any]) -> str:
    """The layer whose sums are those of a layer as well."""
    stem, _, last = name.rpartition(".")
    others = {"to_k": ("to_q",), "to_v": ("to_q", "to_k")}.get(last, ())
    if stem.endswith("attn2"):  # whose keys and values are of the text
        others = ("to_k",) if last == "to_v" else ()
    return next((f"{stem}.{o}" for o in others if f"{stem}.{o}" in layers), name)


def sums_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What the sums of a group of layers take, by the shapes of their weights."""
    heard = {heard_at(name, shapes) for name in shapes}
    return sum(_ITEM * matrix_shape(shapes[name])[1] ** 2 for name in heard)
