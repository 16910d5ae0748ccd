"""How many bits per weight: a number, or the most that fit into an amount of graphics memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import VQError
from .kernels.scratch import LIMIT
from .plan import TOLERANCE, Plan, UnreachableError

LEAST_BITS, MOST_BITS = 2.0, 8.0
UNKNOWN_ACTIVATIONS = 10**9
"""Bytes taken for the activations of a family of which nothing is known."""

_FIT = re.compile(r"fit\s*(\d+(?:\.\d*)?|\.\d+)\s*(gb|gib)", re.IGNORECASE)
_UNITS = {"gb": 10**9, "gib": 2**30}
_NATIVE_SIDE = {"sd15": 64, "sd2": 96, "demo": 8}
"""Latents of a family at its native resolution, where those are not 128 x 128."""
_MIB_PER_BYTE = {"sd15": 1.0, "sd2": 1.0, "sdxl": 0.8, "sdxl-refiner": 1.0, "demo": 1.0}
_WORKSPACE = 16 << 20


@dataclass(frozen=True)
class Fit:
    """As many bits as sampling one picture leaves room for in ``nbytes`` of graphics memory."""

    nbytes: int

    def __str__(self) -> str:
        return f"fit {self.nbytes / 1e9:g} GB"


def parse_bits(given: str | float) -> float | Fit:
    """``3.0``, ``"3.0"``, ``"fit 4 GB"`` (10^9 bytes each) or ``"fit 4 GiB"`` (2^30 bytes each).

    Raises:
        VQError: anything else, or fewer than 2 or more than 8 bits.
    """
    found = _FIT.fullmatch(given.strip()) if isinstance(given, str) else None
    if found:
        amount = float(found[1]) * _UNITS[found[2].lower()]
        if 0 < amount < math.inf:
            return Fit(int(amount))
    try:
        bits = float(given)
    except (TypeError, ValueError):
        bits = math.nan
    if not LEAST_BITS <= bits <= MOST_BITS:
        raise VQError(
            f"found {given!r}, expected {LEAST_BITS:g} to {MOST_BITS:g} bits per weight, such as "
            '3.0, or the graphics memory to stay within, such as "fit 4 GB"'
        )
    return bits


def native_side(family: str) -> int:
    """Height and width of a family's latents at its native resolution, 8 pixels each."""
    return _NATIVE_SIDE.get(family, 128)


def activation_bytes(family: str) -> int | None:
    """What ComfyUI reserves for activations while it samples one picture, with and without prompt.

    Its ``BaseModel.memory_required`` for half precision and PyTorch's attention: 0.01 MiB, times a
    factor of the family, for each byte of one channel of the latents.

    Returns:
        None where the factor is not known.
    """
    factor = _MIB_PER_BYTE.get(family)
    if factor is None:
        return None
    latents = 2 * native_side(family) ** 2 * 2
    return int(0.01 * 2**20 * factor * latents)


def coded_bytes(plan: Plan) -> int:
    """Everything that is stored of a model by a plan, without a file's header."""
    return math.ceil(plan.bits * numel(plan) / 8)


def numel(plan: Plan) -> int:
    """Weights of the whole model."""
    return sum(layer.numel for layer in plan.layers) + plan.other_numel


def sampling_bytes(plan: Plan, activations: int, itemsize: int = 2) -> int:
    """Graphics memory while the model samples with all its coded weights there.

    The coded model; the largest weight decoded, or what the scratch buffer holds of it; the
    temporaries of decoding; the activations.

    Args:
        activations: bytes.
        itemsize: bytes of a decoded weight.
    """
    coded = (layer.numel for layer in plan.layers if plan.choices[layer.name].codec is not None)
    decoded = min(LIMIT, itemsize * max(coded, default=0))
    return coded_bytes(plan) + decoded + _WORKSPACE + activations


def plan_within(
    bits: float | Fit, plan_at: Callable[[float], Plan], memory_of: Callable[[Plan], int]
) -> Plan:
    """The plan at a number of bits, or that of most bits, 2 to 8, whose memory stays within a limit.

    Args:
        plan_at: ``plan_for`` a model, by bits.
        memory_of: bytes that a plan takes, growing with its size; see ``sampling_bytes``.

    Raises:
        VQError: ``plan_at`` refuses; or not even the plan of fewest bits fits, with what it takes.
    """
    if not isinstance(bits, Fit):
        return plan_at(bits)
    most, step, smallest = MOST_BITS, TOLERANCE, None
    while most >= LEAST_BITS:
        plan = _plan_or_none(plan_at, most)
        if plan is None:  # below what the model can be brought to, or between two mixes of widths
            most, step = _hundredths(most - step), 2 * step
            continue
        excess = memory_of(plan) - bits.nbytes
        if excess <= 0:
            return plan
        # What does not grow with the bits stays, so this is just where the rest fits.
        smallest, step = plan, TOLERANCE
        most = _hundredths(min(most - 0.01, plan.bits - 8 * excess / numel(plan)))
    smallest = _smallest(plan_at, smallest or plan_at(MOST_BITS))
    least = memory_of(smallest)
    if least <= bits.nbytes:
        return smallest
    raise VQError(
        f"bits: found {str(bits)!r}, but at {smallest.bits:.2f} bits per weight, the fewest, sampling one "
        f'picture takes {least / 1e9:.2f} GB; ask for "fit {math.ceil(least / 1e7) / 100:g} GB" or more'
    )


def _smallest(plan_at: Callable[[float], Plan], known: Plan) -> Plan:
    """The plan of fewest bits, by bisection between refused and accepted numbers of bits."""
    plan = _plan_or_none(plan_at, LEAST_BITS)
    if plan is not None:
        return plan
    refused = LEAST_BITS
    while known.target - refused > TOLERANCE:
        middle = (refused + known.target) / 2
        plan = _plan_or_none(plan_at, middle)
        refused, known = (middle, known) if plan is None else (refused, plan)
    return known


def _plan_or_none(plan_at: Callable[[float], Plan], bits: float) -> Plan | None:
    """None where the model cannot be brought to just these bits."""
    try:
        return plan_at(bits)
    except UnreachableError:
        return None


def _hundredths(bits: float) -> float:
    return math.floor(100 * bits + 1e-6) / 100
