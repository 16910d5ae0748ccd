"""What the demo asks of a host: the same five things of ComfyUI and of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

HOSTS = ("auto", "comfyui", "diffusers")
"""What can be asked for; auto is ComfyUI where one is found, else diffusers."""
STEPS = 20
GUIDANCE = 3.0
LATENT = (4, 8, 8)
"""Shape of one of the shipped model's latents: pictures of 64 x 64."""


class Sampler(Protocol):
    """A host that runs the shipped model.

    Latents are as the network sees them, float32 `[n, 4, h, w]`; contexts are float32
    `[n, tokens, 768]`; pictures are float32 `[n, 8 h, 8 w, 3]` in 0..1. All on the CPU.
    """

    name: str
    """The host and its version."""

    def load(self, path: Path) -> Any:
        """A dense or a VQ file as the host's own kind of model."""
        ...

    def predict(
        self, model: Any, latents: Tensor, noise: Tensor, timestep: int, context: Tensor
    ) -> Tensor:
        """The noise that the model sees in latents noised to a timestep (0..999)."""
        ...

    def sample(self, model: Any, context: Tensor, unconditional: Tensor, seed: int) -> Tensor:
        """Latents of one picture per context: DDIM, `STEPS` steps, `GUIDANCE`.

        The initial noise is one draw for the whole batch from a generator on the CPU, so it is
        the same in both hosts.

        Args:
            unconditional: `[1, tokens, 768]`, what guidance leads away from.
        """
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents."""
        ...
