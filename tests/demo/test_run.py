"""The demo as a whole, on a host that only pretends to sample."""

import json

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint, codecs
from comfy_vq.demo import task
from comfy_vq.demo.model_files import ModelFiles
from comfy_vq.demo.run import choose_bench, run
from comfy_vq.errors import VQError
from comfy_vq.evaluation.bench import Recording
from comfy_vq.hosts.locate import VARIABLE
from comfy_vq.model import VQModel

SUBJECTS = task.subjects(5)
NAMES = [f"comfy-vq-demo-VQ{bits}.safetensors" for bits in ("4", "3", "2.2")]
REPORT = {"report.md", "report.json", "pictures.png", "rate_quality.png", "timesteps.png"}


class Pretender:
    """A model is how far it is off: nothing for the dense file, 0.1 for the others."""

    name = "pretender 1.0"
    prompts = tuple(scene.caption for scene in SUBJECTS)
    seeds = (1, 2, 3, 4, 5)

    def load(self, path):
        return 0.1 if checkpoint.is_vq(path) else 0.0

    def size(self, path):
        return task.size_of(path)

    def floor(self, path):
        return None

    def record(self, model):
        noise = torch.randn(2, 5, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        return Recording((900.0, 100.0), noise, self.sample(model), None)

    def predict(self, model, recording):
        return recording.noise * (1 + model)

    def sample(self, model):
        return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(1)) + model

    def decode(self, latents):
        return torch.full((len(latents), 64, 64, 3), 0.5)

    def network(self, model):
        return torch.nn.Identity()

    def call(self, model, recording, step):
        pass


@pytest.fixture
def files(tmp_path) -> ModelFiles:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).half()
    save_file({"layer.weight": weight}, tmp_path / "unet.safetensors")
    return ModelFiles(tmp_path / "unet.safetensors", tmp_path / "autoencoder.safetensors")


def quantize(src, dst, bits):
    source = checkpoint.open_dense(src)
    coded = codecs.encode(source.read("layer.weight"), max(2, round(bits)), effort="fast")
    checkpoint.save(dst, VQModel({"layer": coded}, {}, source.source))


def test_writes_three_files_and_the_report(files, tmp_path):
    said = []
    report = run(tmp_path / "out", files, Pretender(), SUBJECTS, quantize, said.append)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {*NAMES, *REPORT}
    assert report.reference.name == "dense" and report.reference.judged["scene"] == 0
    assert [found.name for found in report.candidates] == ["VQ4", "VQ3", "VQ2.2"]
    assert "pretender 1.0" in said[0]
    table = said[-1].split("\n\n")[0].strip()
    assert table in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert {"position", "quantize s", "sample s"} <= {cell.strip() for cell in table.split("|")}


def test_figures_are_those_of_the_files(files, tmp_path):
    report = run(tmp_path / "out", files, Pretender(), SUBJECTS, quantize, lambda text: None)
    assert report.reference.size.bits_per_weight == 16
    for found, name in zip(report.candidates, NAMES, strict=True):
        stored = checkpoint.load(tmp_path / "out" / name)
        assert found.size.bits_per_weight == stored.bits_per_weight
        assert found.noise.sqnr_db.value == pytest.approx(20, abs=1e-4)  # the noise is a tenth
        assert found.extra["quantize s"] > 0
    stored = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert stored["prompts"] == [scene.caption for scene in SUBJECTS]


def test_comfyui_asked_for_and_not_found(files, monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")
    with pytest.raises(VQError, match="COMFYUI_PATH"):
        choose_bench("comfyui", files, SUBJECTS)
