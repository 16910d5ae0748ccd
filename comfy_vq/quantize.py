"""From dense weights to a quantized model: plan, then code layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from . import codecs
from .calibration.gate import Gate
from .errors import VQError
from .finite import is_finite
from .model import Source, VQModel
from .plan import TOLERANCE, Choice, Layer, Plan, Task
from .progress import Clock, OnProgress
from .timestep import layers_of_time, moments_of_time

logger = logging.getLogger(__name__)


class WeightSource(Protocol):
    """Dense weights that are read one at a time.

    Keys are original checkpoint keys without the prefix that ``source`` names.
    """

    @property
    def source(self) -> Source: ...

    def keys(self) -> Iterable[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def dtype(self, key: str) -> torch.dtype: ...

    def codable(self, key: str) -> bool:
        """Whether the tensor is the weight of a linear layer or a convolution."""
        ...

    def read(self, key: str) -> Tensor: ...


def task_for(
    weights: WeightSource, bits: float, *, uncounted: Collection[str] = (), **how: Any
) -> Task:
    """What a plan for a model has to decide.

    Args:
        uncounted: keys of tensors that the average leaves out.
        how: family, exclude, codec, effort and sensitivity_db; see ``plan.Task.of``, which raises
            the same.
    """
    layers, other_bits, other_numel = [], 0, 0
    for key in weights.keys():  # noqa: SIM118 - not a mapping
        if key in uncounted:
            continue
        shape, itemsize = weights.shape(key), 8 * weights.dtype(key).itemsize
        layer = Layer(key.removesuffix(".weight"), shape, itemsize)
        if weights.codable(key):
            layers.append(layer)
        else:
            other_bits += layer.numel * itemsize
            other_numel += layer.numel
    of_time = layers_of_time(weights)
    grouped = () if of_time is None else of_time.names
    return Task.of(layers, other_bits, other_numel, bits, grouped=grouped, **how)


def plan_for(weights: WeightSource, bits: float, **how: Any) -> Plan:
    """The plan for a model without coding anything; arguments as of ``task_for``."""
    return task_for(weights, bits, **how).solve()


def quantize(
    weights: WeightSource,
    bits: float,
    *,
    effort: str = "balanced",
    exclude: Sequence[str] = (),
    family: str | None = None,
    codec: str = codecs.CODECS[0],
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: OnProgress | None = None,
    plan: Plan | None = None,
    gate: Gate | None = None,
) -> VQModel:
    """Quantize a model to an average number of bits per weight.

    One dense layer is held at a time, besides the result.

    Args:
        weights: the dense model.
        bits: average over the whole model, everything counted, met within 0.02.
        effort: ``fast``, ``balanced`` or ``best``.
        exclude: layers to leave dense; see ``plan.Task.of``.
        family: architecture whose sensitivities to plan by; None to detect it.
        codec: one of ``codecs.CODECS``; see ``plan.Task.of``.
        device: to encode on.
        seed: the same weights, bits, effort and seed give the same model.
        progress: see ``OnProgress``.
        plan: instead of making one.
        gate: with a calibration of this model, for feedback of errors where it helps. Layers that see
            nothing but the time step have feedback without it, see ``moments_of_time``.

    Returns:
        The model, its tensors on the CPU.

    Raises:
        VQError: an impossible plan (see ``plan.Task.of``); a weight that is not finite, named.
    """
    if effort not in codecs.EFFORTS:
        raise VQError(f"effort: found {effort!r}, expected one of {', '.join(codecs.EFFORTS)}")
    plan = plan or plan_for(
        weights, bits, exclude=exclude, family=family, codec=codec, effort=effort
    )
    clock = Clock(plan, progress)
    numel = sum(layer.numel for layer in plan.layers) + plan.other_numel
    spare = (plan.target + TOLERANCE - plan.bits) * numel
    layers, dense = {}, {}
    if gate is not None:
        gate.calibration.check({layer.name: layer.shape for layer in plan.layers})
    _refuse_not_finite(weights, clock)
    known = moments_of_time(weights)
    for key in weights.keys():  # noqa: SIM118 - not a mapping
        name = key.removesuffix(".weight")
        choice = plan.choices.get(name) if weights.codable(key) else None
        clock.start(name, choice)
        tensor = weights.read(key)
        coded = None
        if choice is not None and choice.codec is not None:
            # what holds for all time steps is not left for those that a calibration has heard
            judge = None if name in known else gate
            how = {"effort": effort, "seed": seed, "known": known.get(name)}
            coded = _encode(name, tensor.to(device), choice, spare, clock, judge, **how)
        if coded is None:
            dense[key] = _own_memory(tensor)
            if choice is not None and choice.codec is None:
                clock.advance(tensor.numel())
            continue
        if coded.codebooks is not None and coded.codebooks.name == codecs.OWN:
            spare -= 8 * coded.codebooks.nbytes
            coded = replace(coded, codebooks=replace(coded.codebooks, name=f"own.{name}"))
        layers[name] = coded.to("cpu")
    clock.finish()
    summary = {**plan.summary(), "effort": effort}
    if gate is not None:
        layers = gate.settled(layers)
        summary["calibration"] = gate.summary()
    return VQModel(layers, dense, weights.source, summary)


def _refuse_not_finite(weights: WeightSource, clock: Clock) -> None:
    """Read everything once: seconds, and the last of a thousand layers does not waste an hour."""
    for key in weights.keys():  # noqa: SIM118 - not a mapping
        clock.start(key, None)
        if not is_finite(weights.read(key)):
            raise VQError(
                f"tensor {key}: found NaN or Inf, expected finite values; repair the source, or take "
                "another copy of it"
            )


def _encode(
    name: str,
    weight: Tensor,
    choice: Choice,
    spare_bits: float,
    clock: Clock,
    gate: Gate | None,
    *,
    effort: str,
    seed: int,
    known: Tensor | None,
) -> codecs.VQWeight | None:
    """The coded weight, or None where it has to stay dense after all.

    Args:
        known: second moments of its input that hold without calibration.
    """
    codec, bits = choice.codec or "", choice.bits
    options: dict[str, Any] = {} if codec == "int8" else {"unbiased": True}
    if codec == "additive":
        own_set = 8 * codecs.shipped_set(bits).nbytes
        options["own_codebooks"] = "auto" if own_set <= spare_bits else False
    tries = 1 if gate is None or codec == "int8" else gate.tries

    def encode(moments: Tensor | None) -> codecs.VQWeight:
        return codecs.encode(
            weight,
            bits,
            codec,
            effort,
            moments=known if moments is None and codec != "int8" else moments,
            seed=seed,
            on_progress=lambda weights: clock.advance(weights / tries),
            **options,
        )

    try:
        if gate is None or codec == "int8":
            return encode(None)
        return gate.choose(name, weight, encode)
    except codecs.ScaleRangeError as error:
        logger.warning("layer %s stays dense: %s", name, error)
        return None
    except VQError as error:
        raise VQError(f"layer {name}: {error}") from error


def _own_memory(tensor: Tensor) -> Tensor:
    """A copy on the CPU that keeps no larger storage, or a mapped file, alive."""
    return tensor.detach().to("cpu", copy=True).contiguous()
