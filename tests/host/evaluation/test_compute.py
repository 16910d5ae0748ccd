"""``python -m comfy_vq evaluate`` on one file, computed exactly and in int8."""

import json

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.cli import main
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.evaluation.candidates import load_candidate, size_in
from comfy_vq.hosts.locate import VARIABLE
from host.families import random_vq_model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The dense model of a folder is what its coded one decodes to."""
    folder, vq = tmp_path_factory.mktemp("files"), random_vq_model("flux")
    checkpoint.save(folder / "coded.safetensors", vq)
    save_file(vq.decode(torch.float32), folder / "dense.safetensors")
    return folder


def test_exact_and_int8_side_by_side(files, tmp_path, comfyui, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(comfyui))
    coded = files / "coded.safetensors"
    command = ["evaluate", files / "dense.safetensors", coded, f"{coded}@int8", "--out", tmp_path]
    small = ["--count", 1, "--steps", 3, "--size", 64, "--host", "comfyui"]
    assert main([str(part) for part in command + small]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    exact, int8 = report["candidates"]
    assert (exact["name"], int8["name"]) == ("coded", "coded@int8")
    assert exact["size"] == int8["size"]
    values = [float(figures["noise"]["sqnr_db"]["value"]) for figures in (exact, int8)]
    assert 15 < values[1] < 60 and values[0] > 100
    assert int8["layer_nmse"]


def test_only_vq_files_compute_in_int8(files):
    with pytest.raises(VQError, match=r"dense\.safetensors@int8: found no VQ file"):
        load_candidate(files / "dense.safetensors@int8")


def test_the_size_is_that_of_the_file(files):
    assert size_in(files / "coded.safetensors@int8") == size_in(files / "coded.safetensors")
