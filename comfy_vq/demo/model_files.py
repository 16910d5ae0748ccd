"""Where the shipped model is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import VQError

NAME = "comfy-vq-demo"
"""What its VQ files are called after."""
_SHIPPED = Path(__file__).resolve().parents[2] / "training" / "demo_model"


@dataclass(frozen=True)
class ModelFiles:
    """The text-to-image model that the demo runs: denoiser and autoencoder."""

    unet: Path
    autoencoder: Path

    @property
    def folder(self) -> Path:
        return self.unet.parent


def model_files(folder: Path | None = None) -> ModelFiles:
    """The model in a folder; without one, that of the checkout.

    Raises:
        VQError: a file is not there.
    """
    folder = folder or _SHIPPED
    files = ModelFiles(folder / "unet.safetensors", folder / "autoencoder.safetensors")
    for path in (files.unet, files.autoencoder):
        if not path.is_file():
            raise VQError(
                f"{path} is missing: the demo's model comes with the repository, not with the "
                "published extension; clone the repository and run 'make demo' there, or name a "
                "folder that holds both files with --model"
            )
    return files
