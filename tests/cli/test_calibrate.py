"""The command without ComfyUI; in it, in ``tests/host/test_calibrate_command.py``."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import sd_model
from comfy_vq import calibration, checkpoint
from comfy_vq.hosts.locate import VARIABLE
from comfy_vq.timestep import moments_of_time


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """A model in the shipped one's layout, narrower."""
    path = tmp_path_factory.mktemp("shipped") / "dense.safetensors"
    save_file(sd_model.state_dict(64), path)
    return path


def test_calibrate_and_quantize(run, shipped, tmp_path):
    found, out = tmp_path / "calibration.safetensors", tmp_path / "vq.safetensors"
    status, said, _ = run("calibrate", shipped, found, "--count", 2)
    assert status == 0 and "2 pictures; 54 of 54 layers" in said
    loaded, weights = calibration.load(found), load_file(shipped)
    assert loaded.shapes == {
        key.removesuffix(".weight"): tuple(tensor.shape)
        for key, tensor in weights.items()
        if key.endswith(".weight") and tensor.ndim > 1
    }
    status, said, _ = run(
        *("quantize", shipped, out, "--bits", 3, "--effort", "fast", "--device", "cpu"),
        *("--calibration", found),
    )
    assert status == 0 and "calibrated on 2 pictures" in said
    model = checkpoint.load(out)
    fed = {layer for layer, coded in model.layers.items() if coded.codec != "int8"}
    fed -= moments_of_time(checkpoint.open_dense(shipped)).keys()  # known without a calibration
    assert model.plan["calibration"]["layers"] == len(fed) > 30
    name = "output_blocks.0.1.transformer_blocks.0.attn1.to_q"
    weight, inputs = weights[f"{name}.weight"], loaded.moments[name].mean()[0]
    error = weight - model.layers[name].decode()
    output_nmse = (error @ inputs * error).sum() / (weight @ inputs * weight).sum()
    assert output_nmse < 0.3 * error.square().sum() / weight.square().sum()


def test_a_calibration_is_continued(run, shipped, tmp_path):
    found = tmp_path / "calibration.safetensors"
    assert run("calibrate", shipped, found, "--count", 1)[0] == 0
    first = calibration.load(found).moments["time_embed.0"].count
    assert run("calibrate", shipped, found, "--count", 1, "--continue", found)[0] == 2
    status, said, _ = run("calibrate", shipped, found, "--count", 1, "--continue", found, "--force")
    assert status == 0 and "2 pictures" in said
    assert calibration.load(found).moments["time_embed.0"].count == 2 * first


def test_what_cannot_be_calibrated(run, shipped, coded, tmp_path):
    out = tmp_path / "out.safetensors"
    for source, message in (
        (coded, "found a VQ checkpoint, expected a dense model"),
        (tmp_path / "absent.safetensors", "no such file"),
    ):
        status, _, err = run("calibrate", source, out)
        assert status == 2 and message in err and not out.exists()


def test_what_does_not_fit_is_refused_before_the_work(run, shipped, tmp_path):
    bad = tmp_path / "bad.safetensors"
    calibration.save(bad, calibration.Calibration({"elsewhere": (8, 8)}, {}, 1))
    out = tmp_path / "out.safetensors"
    status, _, err = run("quantize", shipped, out, "--bits", 3, "--calibration", bad)
    assert status == 2 and "calibration, layer elsewhere: found no such layer" in err
    save_file({"x": torch.zeros(1)}, bad)
    status, _, err = run("quantize", shipped, out, "--bits", 3, "--calibration", bad)
    assert status == 2 and "expected a calibration" in err and not out.exists()
