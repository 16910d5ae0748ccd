"""What the ruler asks of a host: to run models on fixed prompts and seeds.

A host's bench fixes everything but the model: prompts, seeds, sampler, guidance, size. The
reference is recorded once; every candidate then answers the inputs that the reference met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

_T = TypeVar("_T")


@dataclass(frozen=True)
class Size:
    """What a diffusion model takes, everything stored for it counted.

    Attributes:
        nbytes: of all its tensors as stored, scales and codebooks included.
        numel: logical weights of the model, which is the same for every way of storing it.
    """

    nbytes: int
    numel: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / self.numel


@dataclass(frozen=True, eq=False)
class Recording:
    """What the reference did.

    Attributes:
        timesteps: of the T recorded steps, 0..999 or the host's own scale, noisiest first.
        noise: its predictions at these steps, float32 ``[T, prompts, ...]``.
        latents: its final latents, float32 ``[prompts, ...]``.
        inputs: what the host needs to ask another model the same; the ruler does not look inside.
    """

    timesteps: tuple[float, ...]
    noise: Tensor
    latents: Tensor
    inputs: Any


class Bench(Protocol):
    """A host, fixed prompts, fixed seeds. All tensors that it gives are float32 on the CPU."""

    name: str
    """The host and its version."""

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def seeds(self) -> Sequence[int]:
        """One of each prompt."""
        ...

    def alone(self, index: int) -> Bench:
        """The same with one of its prompts, and that one's seed."""
        ...

    def load(self, path: Path) -> Any:
        """A dense, natively quantized, VQ or GGUF file as the host's kind of model."""
        ...

    def size(self, path: Path) -> Size:
        """Of the diffusion model in a file."""
        ...

    def floor(self, model: Any) -> Any | None:
        """A dense model, given as its file or loaded, with its weights rounded to bfloat16.

        Computed in bfloat16 where the host computes in half precision. None where the host
        cannot do that.
        """
        ...

    def record(self, model: Any) -> Recording:
        """Sample every prompt with its seed, and keep the inputs of some evenly spread steps."""
        ...

    def predict(self, model: Any, recording: Recording) -> Tensor:
        """The noise that a model sees in the recorded inputs: the shape of ``recording.noise``.

        Teacher-forced: the inputs are those of the reference whatever the model answers, so
        differences do not build up over steps.
        """
        ...

    def sample(self, model: Any) -> Tensor:
        """Final latents of every prompt with its seed: the shape of ``recording.latents``."""
        ...

    def decode(self, latents: Tensor) -> Tensor | None:
        """Pictures ``[prompts, h, w, 3]`` in 0..1; None where the bench has no autoencoder."""
        ...

    def network(self, model: Any) -> nn.Module:
        """The diffusion model's module. Candidates name their layers as the reference does."""
        ...

    def call(self, model: Any, recording: Recording, step: int) -> None:
        """Run a model once on the inputs of one recorded step, for hooks on its layers."""
        ...


Judge = Callable[[Tensor], dict[str, float]]
"""Shares (0..1) by name of how well pictures show what was asked for; only the demo has one."""


def spread(items: Sequence[_T], count: int) -> list[_T]:
    """Up to ``count`` of the items at equal distances, such as of the steps or of the prompts."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]
