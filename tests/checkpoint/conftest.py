"""A small VQ model with every kind of content, and a way to damage the file that holds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy_vq import checkpoint, codecs
from comfy_vq.codecs import CodebookSet
from comfy_vq.model import Component, Source, VQModel


def own_set(name: str) -> CodebookSet:
    """A set that is nobody's but one layer's."""
    shipped = codecs.shipped_set(2)
    return CodebookSet(name, shipped.codebooks.flip(1), 0.5 * shipped.step, shipped.offset)


@lru_cache(maxsize=1)
def tiny_model() -> VQModel:
    """Layers of every codec, shared and own sets, dense tensors of all float dtypes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = {
        "blocks.0.q": codecs.encode(random(16, 64).bfloat16(), 3, effort="fast"),
        "blocks.0.k": codecs.encode(random(16, 64).half(), 3, effort="fast"),
        "blocks.0.conv": codecs.encode(random(8, 16, 3, 3), 2, effort="fast"),
        "blocks.0.own": codecs.encode(
            random(16, 128), 2, effort="fast", codebooks=own_set("own.blocks.0")
        ),
        "out": codecs.encode(random(4, 20, 3, 3), 8, codec="int8"),
    }
    layers["blocks.0.v"] = codecs.encode(random(16, 64).half(), 3, "trellis", effort="fast")
    dense = {
        "out.bias": random(4),
        "norm.weight": random(5).half(),
        "norm.bias": random(5).bfloat16(),
        "embedding.weight": random(3, 2).to(torch.float8_e4m3fn),
        "scale": torch.tensor(2.0),
        "steps": torch.arange(3),
        "empty": torch.zeros(0, 4),
    }
    root = {"v_pred": torch.tensor([]), "edm_vpred.sigma_max": torch.tensor(120.0)}
    source = Source("tiny.safetensors", "00" * 32, "model.diffusion_model.", {"config": "{}"}, root)
    return VQModel(layers, dense, source, {"family": "sd15", "bits": 3.0})


@lru_cache(maxsize=1)
def full_components() -> dict[str, Component]:
    """A coded text encoder with a tokenizer's data, and a dense autoencoder."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    layers = {
        "l.q": codecs.encode(random(16, 64).half(), 3, effort="fast"),
        "l.k": codecs.encode(random(16, 64).half(), 4, effort="fast"),
        "l.out": codecs.encode(random(4, 20), 8, codec="int8"),
    }
    dense = {"l.embedding.weight": random(6, 64).half(), "l.scale": torch.tensor(4.6)}
    root = {"spiece_model": torch.arange(9, dtype=torch.uint8)}
    clip = VQModel(layers, dense, Source("clip.safetensors", None, "", {}, root), {"bits": 3.4})
    vae = VQModel({}, {"decoder.conv.weight": random(2, 2, 3, 3)}, Source("vae.safetensors"))
    return {
        "clip": Component(clip, {"type": "flux", "model": "TinyModel"}),
        "vae": Component(vae, {"model": "TinyVAE"}),
    }


@pytest.fixture(scope="session")
def model() -> VQModel:
    """See ``tiny_model``."""
    return tiny_model()


@pytest.fixture
def saved(model: VQModel, tmp_path: Path) -> Path:
    """``model`` in a file."""
    path = tmp_path / "tiny-VQ3.safetensors"
    checkpoint.save(path, model)
    return path


class Damage:
    """Rewrites a safetensors file with a change in its header or its data."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        self.index: dict[str, Any] = json.loads(content[8 : 8 + length])
        self.data = bytearray(content[8 + length :])

    def write(self, index_text: str | None = None) -> Path:
        """Write the file with ``index``, or with another text in its place."""
        text = json.dumps(self.index) if index_text is None else index_text
        header = text.encode()
        self.path.write_bytes(len(header).to_bytes(8, "little") + header + self.data)
        return self.path

    def field(self, key: str, change: Callable[[Any], Any]) -> Path:
        """Change a metadata field that holds JSON: in place, or to what ``change`` returns."""
        metadata = self.index["__metadata__"]
        value = json.loads(metadata[key])
        changed = change(value)
        metadata[key] = json.dumps(value if changed is None else changed)
        return self.write()

    def fill(self, tensor: str, values: torch.Tensor) -> Path:
        """Overwrite the first values of a tensor."""
        begin, _ = self.index[tensor]["data_offsets"]
        raw = bytes(values.contiguous().view(torch.uint8).numpy())
        self.data[begin : begin + len(raw)] = raw
        return self.write()


@pytest.fixture
def damage(saved: Path) -> Damage:
    """The saved model, to be damaged."""
    return Damage(saved)
