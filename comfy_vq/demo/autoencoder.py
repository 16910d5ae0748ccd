"""A tiny autoencoder in the layout that ComfyUI loads, run by diffusers."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor

from ..errors import VQError

_SD15_SCALE = 0.18215
"""SD1.5's network sees the autoencoder's latents times this."""


class TinyAutoencoder:
    """From the latents that an SD1.5 network sees to pictures.

    Args:
        path: a `.safetensors` in the layout of TAESD: `taesd_encoder.*`, `taesd_decoder.*`, and
            `vae_scale` and `vae_shift`, which lead from SD1.5's latents to its own.

    Raises:
        VQError: the file has other tensors.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        tensors = load_file(path)
        self._scale = float(tensors.pop("vae_scale", torch.tensor(1.0)))
        self._shift = float(tensors.pop("vae_shift", torch.tensor(0.0)))
        self._network = _network(path, tensors).to(device)
        self._device = device

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Float32 `[n, 4, h, w]` to pictures, float32 `[n, 8 h, 8 w, 3]` in 0..1 on the CPU."""
        own = (latents.to(self._device) / _SD15_SCALE - self._shift) * self._scale
        pictures = self._network.decode(own).sample / 2 + 0.5
        return pictures.clamp(0, 1).movedim(1, -1).cpu()


def _network(path: Path, tensors: dict[str, Tensor]) -> AutoencoderTiny:
    renamed = {_diffusers_name(key): tensor.float() for key, tensor in tensors.items()}
    network = AutoencoderTiny()
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    if found != expected:
        odd = min(set(found.items()) ^ set(expected.items()))
        raise VQError(
            f"{path}: {odd[0]} of shape {list(odd[1])} is missing or has no place; expected the "
            "layout of TAESD (taesd_encoder.*, taesd_decoder.*)"
        )
    network.load_state_dict(renamed)
    return network.eval()


def _diffusers_name(key: str) -> str:
    """The decoder's first layer, a clamp, is a function in diffusers, so its numbers shift."""
    part, _, rest = key.partition(".")
    number, _, leaf = rest.partition(".")
    if part == "taesd_decoder" and number.isdigit():
        return f"decoder.layers.{int(number) - 1}.{leaf}"
    return f"{part.removeprefix('taesd_')}.layers.{rest}"
