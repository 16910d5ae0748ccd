"""A host small enough to know its answers: models are modules, files hold their weights."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from comfy_vq.errors import VQError
from comfy_vq.evaluation.bench import Recording, Size

STEPS = 3


class Linear(nn.Module):
    """A host's layer: one of its own, no ``nn.Linear``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.mix = Linear(8)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mix(self.norm(self.conv(x)).relu()))


def noisy(network: Network, share: float, *layers: str) -> Network:
    """A copy with ``share`` times as much noise as weight in the layers named."""
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(1)
    for name in layers or ("conv", "mix", "out"):
        weight = changed.get_submodule(name).weight.data
        weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    return changed


class ToyBench:
    """Prompts are noise to start from; pictures are latents squeezed into 0..1."""

    name = "toy 1.0"

    def __init__(self, prompts: int = 4, autoencoder: bool = True) -> None:
        self.prompts = [f"prompt {number}" for number in range(prompts)]
        self.seeds = list(range(prompts))
        self.loaded: list[Path] = []
        self._autoencoder = autoencoder
        starts = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        self._start = torch.stack([torch.randn(4, 8, 8, generator=g) for g in starts])

    def load(self, path: Path) -> Network:
        self.loaded.append(path)
        if not path.is_file():
            raise VQError(f"{path}: no such file")
        network = Network()
        network.load_state_dict(load_file(path))
        return network

    def size(self, path: Path) -> Size:
        return Size(1, 1)

    def floor(self, path: Path) -> Network | None:
        return self.load(path).bfloat16().float()

    @torch.inference_mode()
    def record(self, model: Network) -> Recording:
        kept = []
        latents = self._run(model, kept)
        noise = torch.stack([model(x) for x in kept])
        return Recording(tuple(range(900, 0, -300)), noise, latents, kept)

    @torch.inference_mode()
    def predict(self, model: Network, recording: Recording) -> Tensor:
        return torch.stack([model(x) for x in recording.inputs])

    @torch.inference_mode()
    def sample(self, model: Network) -> Tensor:
        return self._run(model, [])

    def decode(self, latents: Tensor) -> Tensor | None:
        if not self._autoencoder:
            return None
        return latents[:, :3].movedim(1, -1).sigmoid().repeat(1, 2, 2, 1)

    def network(self, model: Network) -> nn.Module:
        return model

    @torch.inference_mode()
    def call(self, model: Network, recording: Recording, step: int) -> None:
        model(recording.inputs[step])

    def _run(self, model: Network, kept: list[Tensor]) -> Tensor:
        x = self._start
        for _ in range(STEPS):
            kept.append(x)
            x = x - 0.3 * model(x)
        return x
