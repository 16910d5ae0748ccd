"""Checkpoints to the two files that are shipped, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from training.autoencoder import Autoencoder
from training.denoiser import build
from training.key_names import original

UNET = "unet.safetensors"
AUTOENCODER = "autoencoder.safetensors"
_COMMON = {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.license": "Apache-2.0"}


def _write(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    half = {key: tensor.cpu().half().contiguous() for key, tensor in tensors.items()}
    save_file(half, path, _COMMON | metadata)


def write_unet(model: nn.Module, folder: Path) -> None:
    """Write the denoiser in fp16 under the original names, which ComfyUI detects as SD1.5."""
    _write(
        {original(name): tensor for name, tensor in model.state_dict().items()},
        folder / UNET,
        {
            "modelspec.architecture": "stable-diffusion-v1",
            "modelspec.title": "comfy-vq demo denoiser",
            "modelspec.description": "One-level SD1.5 UNet trained from scratch on procedurally "
            "drawn scenes of two coloured shapes; 64x64 pictures; for tests and demonstrations",
            "modelspec.resolution": "64x64",
            "modelspec.prediction_type": "epsilon",
        },
    )


def write_autoencoder(model: nn.Module, folder: Path) -> None:
    """Write the autoencoder in fp16 in TAESD's layout."""
    _write(
        model.state_dict(),
        folder / AUTOENCODER,
        {
            "modelspec.title": "comfy-vq demo autoencoder",
            "modelspec.description": "Tiny autoencoder in TAESD's layout, trained from scratch on "
            "procedurally drawn scenes of two coloured shapes",
        },
    )


def read_unet(folder: Path) -> UNet2DConditionModel:
    """The shipped denoiser in fp32, for diffusers."""
    stored = load_file(folder / UNET)
    model = build()
    model.load_state_dict({name: stored[original(name)].float() for name in model.state_dict()})
    return model.eval()


def read_autoencoder(folder: Path) -> Autoencoder:
    """The shipped autoencoder in fp32."""
    stored = load_file(folder / AUTOENCODER)
    model = Autoencoder()
    model.load_state_dict({key: tensor.float() for key, tensor in stored.items()})
    return model.eval()
