"""The demo as a whole, on a host that only pretends to sample."""

import json

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint, codecs
from comfy_vq.demo.model_files import ModelFiles
from comfy_vq.demo.run import choose_sampler, run
from comfy_vq.errors import VQError
from comfy_vq.hosts.locate import VARIABLE
from comfy_vq.model import VQModel

NAMES = [f"comfy-vq-demo-VQ{bits}.safetensors" for bits in ("4", "3", "2.2")]


class Pretender:
    """A model is how far it is off: nothing for the dense file, 0.1 for the others."""

    name = "pretender 1.0"

    def load(self, path):
        return 0.1 if checkpoint.is_vq(path) else 0.0

    def predict(self, model, latents, noise, timestep, context):
        return noise * (1 + model)

    def sample(self, model, context, unconditional, seed):
        noise = torch.randn(len(context), 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        return noise + model

    def encode(self, pictures):
        return torch.zeros(len(pictures), 4, 8, 8)

    def decode(self, latents):
        return torch.full((len(latents), 64, 64, 3), 0.5)


@pytest.fixture
def files(tmp_path) -> ModelFiles:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).half()
    save_file({"layer.weight": weight}, tmp_path / "unet.safetensors")
    return ModelFiles(tmp_path / "unet.safetensors", tmp_path / "autoencoder.safetensors")


def quantize(src, dst, bits):
    source = checkpoint.open_dense(src)
    coded = codecs.encode(source.read("layer.weight"), max(2, round(bits)), effort="fast")
    checkpoint.save(dst, VQModel({"layer": coded}, {}, source.source))


def test_writes_three_files_a_grid_and_a_table(files, tmp_path):
    said = []
    rows = run(tmp_path / "out", files, Pretender(), quantize, 5, said.append)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*NAMES, "grid.png", "table.md", "table.json"}
    assert [row.name for row in rows] == ["dense", "VQ4", "VQ3", "VQ2.2"]
    assert (tmp_path / "out" / "table.md").read_text().strip() in said[-1]
    assert "pretender 1.0" in said[0]


def test_figures_are_those_of_the_files_against_the_dense_model(files, tmp_path):
    dense, *coded = run(tmp_path / "out", files, Pretender(), quantize, 5, lambda text: None)
    assert dense.bits == 16 and dense.noise_sqnr_db is None
    for row, name in zip(coded, NAMES, strict=True):
        path = tmp_path / "out" / name
        assert row.bits == checkpoint.load(path).bits_per_weight
        assert row.megabytes == path.stat().st_size / 1e6
        assert row.noise_sqnr_db == pytest.approx(20, abs=1e-4)  # the noise is a tenth of it
    stored = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(stored["captions"]) == 5 and stored["host"] == "pretender 1.0"


def test_comfyui_asked_for_and_not_found(files, monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")
    with pytest.raises(VQError, match="COMFYUI_PATH"):
        choose_sampler("comfyui", files)
