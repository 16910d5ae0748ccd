"""VQ files, as the command ``quantize`` writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from comfy_vq import checkpoint
from comfy_vq.demo.model_files import model_files
from comfy_vq.errors import VQError
from comfy_vq.quantize import WeightSource, plan_for, quantize

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
        dense, command = str(model_files().unet), [sys.executable, "-m", "comfy_vq"]
        asked = ["--bits", f"{bits:g}", "--force", *options]
        if calibrated:
            heard = path.with_name("calibration.safetensors")
            if not heard.exists():
                _run([*command, "calibrate", dense, str(heard), "--count", "16"])
            asked += ["--calibration", str(heard)]
        _run([*command, "quantize", dense, str(path), *asked])

    return make


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise VQError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1]}")
