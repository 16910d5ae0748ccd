"""The command without ComfyUI; in it, in ``tests/host/test_evaluate.py``."""

import json

import pytest
from safetensors.torch import save_file

import sd_model
from comfy_vq.cli.prompts import PROMPTS
from comfy_vq.hosts.locate import VARIABLE


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A model in the shipped one's layout, and one that differs."""
    folder = tmp_path_factory.mktemp("shipped")
    for seed, name in enumerate(("dense", "other")):
        save_file(sd_model.state_dict(seed=seed), folder / f"{name}.safetensors")
    return folder


def test_the_shipped_model_needs_no_comfyui(run, shipped, tmp_path):
    files = (shipped / "dense.safetensors", shipped / "other.safetensors")
    status, out, _ = run("evaluate", *files, "--count", 2, "--out", tmp_path, "--floor")
    assert status == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["reference"]["name"] == "dense" and report["reference"]["judged"]
    floor, other = report["candidates"]
    assert (floor["name"], other["name"]) == ("bf16 floor", "other")
    assert other["noise"]["sqnr_db"]["value"] < floor["noise"]["sqnr_db"]["value"]
    assert other["layer_nmse"]
    assert "| dense" in out and "| other" in out and "diffusers" in out
    assert {"report.md", "pictures.png"} <= {path.name for path in tmp_path.iterdir()}


def test_layers_can_be_left_out(run, shipped, tmp_path):
    files = (shipped / "dense.safetensors", shipped / "other.safetensors")
    assert run("evaluate", *files, "--count", 1, "--out", tmp_path, "--no-layers")[0] == 0
    (other,) = json.loads((tmp_path / "report.json").read_text())["candidates"]
    assert other["layer_nmse"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--host", "comfyui"), "no ComfyUI was found"),
        (("--prompts", "some.txt"), "the shipped model knows scenes of its own only"),
    ],
)
def test_what_the_shipped_model_cannot_do(run, shipped, tmp_path, options, message):
    files = (shipped / "dense.safetensors", shipped / "other.safetensors")
    status, _, err = run("evaluate", *files, "--out", tmp_path, *options)
    assert status == 2 and message in err
    assert list(tmp_path.iterdir()) == []


def test_other_models_need_comfyui(run, dense, coded, tmp_path):
    status, _, err = run("evaluate", dense, coded, "--out", tmp_path)
    assert status == 2 and "needs ComfyUI" in err and VARIABLE in err


def test_missing_files_and_files_named_twice(run, shipped, tmp_path):
    reference = shipped / "dense.safetensors"
    status, _, err = run("evaluate", reference, tmp_path / "missing.gguf", "--out", tmp_path)
    assert status == 2 and "missing.gguf: no such file" in err
    status, _, err = run("evaluate", reference, reference, "--count", 1, "--out", tmp_path)
    assert status == 2 and "named twice" in err


def test_the_built_in_prompts_differ():
    assert len(set(PROMPTS)) == len(PROMPTS) == 16
