"""Which layers of a VQ model compute in int8, decided anew in every sampling.

The first evaluation of a sampling is exact, and measures what rounding each layer's activations to
bytes would cost. From the second on those layers compute in int8 for which that costs little beside
what coding their weights did. So the same seed gives the same picture, whatever was sampled before,
and results are read from the device once.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP
from comfy_kitchen.tensor import QuantizedTensor
from torch import Tensor, nn

from ....ahead import Ahead
from . import int8, int8_trial
from .layout import is_coded
from .loader import prepared
from .ops import VQOperations

log = logging.getLogger(__name__)

SHARE = 0.1
"""Of the error of coding: the most that rounding the activations may add to a layer's output."""

_KEY = "comfy_vq_compute"
_SHOWN = 3


@dataclass(frozen=True)
class Choice:
    """What was decided for a layer.

    Attributes:
        db: SQNR of its activations in bytes; NaN where there was no signal.
        least_db: with which int8 is chosen.
    """

    name: str
    db: float
    least_db: float
    int8: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.db:.1f} dB, needs {self.least_db:.1f})"


class LayerCompute:
    """How one linear layer multiplies its input with its coded weight."""

    def __init__(self, mode: ComputeMode, name: str, limit: float) -> None:
        self._mode = mode
        self.name = name
        self.limit = limit
        self.sums: Tensor | None = None
        self.int8 = False

    @property
    def active(self) -> bool:
        """Whether ``linear`` does anything at present. Nothing of it shows in what is compiled."""
        return not torch.compiler.is_compiling() and (self.int8 or self._mode.measuring)

    def linear(self, input: Tensor, weight: QuantizedTensor, bias: Tensor | None) -> Tensor | None:
        """The output in int8, or None where the layer should decode its weight."""
        if not self.active:
            return None
        if input.ndim < 3 or input.numel() == 0 or input.dtype not in int8.DTYPES:
            return None  # a vector per picture is soon multiplied, and all else depends on it
        if input.requires_grad and torch.is_grad_enabled():
            return None
        if self.int8:
            return int8.linear(input, weight, bias)
        sums = int8.rounding(input, weight)
        self.sums = sums if self.sums is None else self.sums + sums
        return None

    def choose(self, error: float, signal: float) -> Choice:
        """Decide by the two powers that ``int8.rounding`` gives, summed over the first evaluation."""
        # Noise in the activations and noise in the weight, each white, are to each other in the
        # output as they are here, whatever the layer is. NaN compares false: it stays exact.
        self.int8 = 0 < signal < math.inf and error <= self.limit * signal
        return Choice(self.name, _db(signal, error), _db(1, self.limit), self.int8)


class ComputeMode:
    """Of one loaded model, shared by all MODELs around it.

    Attributes:
        name: one of ``modes.COMPUTE``.
        measuring: whether the first evaluation of a sampling is under way.
        choices: of the last sampling, of layers that ran in its first evaluation.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        self.name = name
        self.measuring = False
        self.choices: tuple[Choice, ...] = ()
        self._evaluated = False
        self._told = ""
        self._ahead: Ahead | None = None
        self._in_int8: set[str] = set()
        self._layers: list[LayerCompute] = []
        self._linear_layers = 0
        for path, layer in network.named_modules():
            if isinstance(layer, VQOperations.Linear) and is_coded(layer.weight):
                self._linear_layers += 1
                if int8.can_multiply(layer.weight):
                    limit = SHARE * int8.coding_nmse(layer.weight)
                    layer.compute = LayerCompute(self, path, limit)
                    self._layers.append(layer.compute)
                self._ahead = None if layer.slot is None else layer.slot.ahead

    @contextmanager
    def sampling(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Within it, layers may compute in int8. ``dtype`` is that of the activations."""
        self._reset()
        self.measuring = self._wanted(device, dtype)
        try:
            yield
        finally:
            self._reset()

    def before_evaluation(self) -> None:
        if self.measuring and self._evaluated:
            self._choose()
        self._evaluated = True

    def _wanted(self, device: torch.device, dtype: torch.dtype) -> bool:
        if self.name == "auto":
            return int8_trial.pays(device, dtype)
        reason = int8_trial.broken(device, dtype)
        if reason is not None:
            self._tell(f"VQ: int8 does not work on {device}: {reason}; computing exactly")
        return reason is None

    def _choose(self) -> None:
        self.measuring = False
        by_device: dict[torch.device, list[LayerCompute]] = defaultdict(list)
        for layer in self._layers:
            if layer.sums is not None:
                by_device[layer.sums.device].append(layer)
        choices = []
        for layers in by_device.values():
            sums = torch.stack([layer.sums for layer in layers if layer.sums is not None])
            found = zip(layers, sums.tolist(), strict=True)
            choices += [layer.choose(*powers) for layer, powers in found]
        self.choices = tuple(choices)
        in_int8 = {choice.name for choice in choices if choice.int8}
        if in_int8 != self._in_int8 and self._ahead is not None:
            self._ahead.reset()  # or weights would be decoded ahead that nobody needs
        self._in_int8 = in_int8
        self._tell(self._summary())

    def _summary(self) -> str:
        chosen = sum(choice.int8 for choice in self.choices)
        line = f"VQ: int8 for {chosen} of {self._linear_layers} linear layers"
        refused = [choice for choice in self.choices if not choice.int8]
        if refused:
            worst = sorted(refused, key=_excess, reverse=True)[:_SHOWN]
            line += "; the others stay exact, worst " + ", ".join(map(str, worst))
        return line

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._told = line
            log.info(line)

    def _reset(self) -> None:
        self.measuring = self._evaluated = False
        for layer in self._layers:
            layer.int8, layer.sums = False, None


def compute_as(patcher: ModelPatcher, name: str) -> ModelPatcher:
    """The VQ MODEL ``patcher``, whose coded linear layers from now on compute as ``name`` says.

    So do its clones, which share the layers, and copies that the host loads anew.

    Args:
        name: one of ``modes.COMPUTE``.
    """
    return patcher if name == "exact" else prepared(patcher, _compute_as, name)


def _compute_as(patcher: ModelPatcher, name: str) -> ModelPatcher:
    patcher.model.comfy_vq_compute = ComputeMode(name, patcher.model.diffusion_model)
    patcher.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, _KEY, _sample)
    patcher.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, _KEY, _predict)
    return patcher


def mode_of(model: nn.Module) -> ComputeMode | None:
    """How a ``comfy.model_base.BaseModel`` computes; None if exactly, as models do."""
    return getattr(model, "comfy_vq_compute", None)


def _sample(executor: WrapperExecutor, guider: Any, *rest: Any, **options: Any) -> Tensor:
    mode = mode_of(guider.inner_model)
    if mode is None:
        return executor(guider, *rest, **options)
    patcher = guider.model_patcher
    with mode.sampling(patcher.load_device, patcher.model.get_dtype_inference()):
        return executor(guider, *rest, **options)


def _predict(executor: WrapperExecutor, *rest: Any, **options: Any) -> Tensor:
    mode = mode_of(executor.class_obj.inner_model)
    if mode is not None:
        mode.before_evaluation()
    return executor(*rest, **options)


def _db(signal: float, error: float) -> float:
    if not 0 < signal < math.inf or not error < math.inf:
        return math.nan
    return 10 * math.log10(signal / error) if error > 0 else math.inf


def _excess(choice: Choice) -> float:
    return -math.inf if math.isnan(choice.db) else choice.least_db - choice.db
