"""VQ files, as the command ``quantize`` writes them."""

from __future__ import annotations

from pathlib import Path

from comfy_vq import checkpoint
from comfy_vq.demo.model_files import model_files
from comfy_vq.quantize import WeightSource, plan_for, quantize

from ..commands import run
from .format import Make


def vq(bits: float, codec: str, effort: str = "balanced", family: str | None = None) -> Make:
    """At an average number of bits; ``family`` plans by another family's sensitivities."""

    def make(weights: WeightSource, path: Path) -> None:
        plan = plan_for(weights, bits, codec=codec, effort=effort, family=family)
        checkpoint.save(path, quantize(weights, bits, effort=effort, plan=plan))

    return make


def by_command(bits: float, *options: str, calibrated: bool = False) -> Make:
    """As the command line does it, of the shipped model.

    Args:
        options: of ``quantize``.
        calibrated: on the shipped model's training scenes, once for a folder.
    """

    def make(weights: WeightSource, path: Path) -> None:
        dense = str(model_files().unet)
        asked = ["--bits", f"{bits:g}", "--force", *options]
        if calibrated:
            heard = path.with_name("calibration.safetensors")
            if not heard.exists():
                run(["calibrate", dense, str(heard), "--count", "16"])
            asked += ["--calibration", str(heard)]
        run(["quantize", dense, str(path), *asked])

    return make
