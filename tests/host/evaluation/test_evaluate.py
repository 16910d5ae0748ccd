"""``python -m comfy_vq evaluate`` through the real ComfyUI, on files of every kind."""

from __future__ import annotations

import json

import gguf
import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq import checkpoint
from comfy_vq.cli import main
from comfy_vq.hosts.comfy.evaluation.files import RANDOM_CONDITIONING
from comfy_vq.hosts.locate import VARIABLE
from host.evaluation.gguf_files import write_gguf
from host.families import random_vq_model, tiny_state_dict

pytestmark = pytest.mark.one_host(
    reason="the command around what test_bench measures with in every version"
)


@pytest.fixture(autouse=True)
def comfyui_is_found(comfyui, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(comfyui))


def evaluate(out, *arguments: object) -> dict:
    command = ["evaluate", *arguments, "--out", out, "--host", "comfyui"]
    assert main([str(part) for part in command]) == 0
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


def sqnr(figures: dict) -> float:
    return float(figures["noise"]["sqnr_db"]["value"])


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_files_of_every_kind(tmp_path, family, capsys):
    vq = random_vq_model(family)
    dense = vq.decode(torch.float32)
    full = {f"model.diffusion_model.{key}": tensor for key, tensor in dense.items()}
    checkpoint.save(tmp_path / "coded.safetensors", vq)
    save_file(dense, tmp_path / "dense.safetensors")
    save_file(full, tmp_path / "full.safetensors")
    save_file(tiny_state_dict(family, seed=5), tmp_path / "other.safetensors")
    write_gguf(tmp_path / "q8.gguf", dense, gguf.GGMLQuantizationType.Q8_0)
    names = ("coded.safetensors", "full.safetensors", "other.safetensors", "q8.gguf")
    files = [tmp_path / name for name in ("dense.safetensors", *names)]
    small = ("--count", 2, "--steps", 3, "--size", 64, "--floor")
    report = evaluate(tmp_path / "out", *files, *small)
    found = {figures["name"]: figures for figures in report["candidates"]}
    assert list(found) == ["bf16 floor", "coded", "full", "other", "q8"]
    assert not report["failures"]
    assert sqnr(found["full"]) == float("inf") and sqnr(found["coded"]) > 100
    assert sqnr(found["other"]) < 10 < sqnr(found["q8"]) < 100
    sizes = {name: figures["size"] for name, figures in found.items()}
    assert len({size["numel"] for size in sizes.values()}) == 1
    assert sizes["coded"]["bits_per_weight"] == pytest.approx(vq.bits_per_weight)
    assert sizes["q8"]["bits_per_weight"] < sizes["full"]["bits_per_weight"] == 32
    assert all(figures["layer_nmse"] for figures in found.values())
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert RANDOM_CONDITIONING in text and RANDOM_CONDITIONING in capsys.readouterr().out


def test_prompts_from_a_file(tmp_path):
    for seed, name in enumerate(("dense", "other")):
        save_file(tiny_state_dict("flux", seed=seed), tmp_path / f"{name}.safetensors")
    (tmp_path / "prompts.txt").write_text("a cat\n\n a dog \na bird\n", encoding="utf-8")
    files = (tmp_path / "dense.safetensors", tmp_path / "other.safetensors")
    options = ("--prompts", tmp_path / "prompts.txt", "--count", 2, "--seed", 9, "--steps", 2)
    report = evaluate(tmp_path / "out", *files, *options, "--size", 64, "--no-layers")
    assert (report["prompts"], report["seeds"]) == (["a cat", "a dog"], [9, 10])


def test_the_shipped_model_is_judged(tmp_path):
    """Its layout is what it is known by; the weights are random here."""
    for seed, name in enumerate(("dense", "other")):
        save_file(sd_model.state_dict(seed=seed), tmp_path / f"{name}.safetensors")
    write_gguf(tmp_path / "q8.gguf", sd_model.state_dict(), gguf.GGMLQuantizationType.Q8_0)
    files = [tmp_path / name for name in ("dense.safetensors", "other.safetensors", "q8.gguf")]
    report = evaluate(tmp_path / "out", *files, "--count", 2, "--steps", 2)
    assert report["prompts"][0] != report["prompts"][1]
    assert report["reference"]["judged"].keys() == {"colour", "shape", "position", "scene"}
    other, q8 = report["candidates"]
    assert sqnr(other) < 10 < sqnr(q8)
    assert other["pictures"]["ssim"]["value"] < 1
