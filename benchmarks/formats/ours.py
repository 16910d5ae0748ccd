"""VQ files, as the command ``quantize`` writes them."""

from __future__ import annotations

from pathlib import Path

from comfy_vq import checkpoint
from comfy_vq.quantize import WeightSource, plan_for, quantize

from .format import Make


def vq(bits: float, codec: str, effort: str = "balanced", family: str | None = None) -> Make:
    """At an average number of bits; ``family`` plans by another family's sensitivities."""

    def make(weights: WeightSource, path: Path) -> None:
        plan = plan_for(weights, bits, codec=codec, effort=effort, family=family)
        checkpoint.save(path, quantize(weights, bits, effort=effort, plan=plan))

    return make
