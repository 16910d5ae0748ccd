"""``calibrate`` and ``quantize --calibration`` on files, through the host."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from comfy_server import CHECKOUT
from comfy_vq import calibration, checkpoint
from comfy_vq.cli import main
from host.families import tiny_state_dict

BITS = "4"
SAMPLING = ["--count", "2", "--steps", "2", "--size", "64"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("calibrate") / "dense.safetensors"
    save_file(tiny_state_dict("flux"), path)
    return path


@pytest.fixture(scope="module")
def heard(dense) -> Path:
    path = dense.with_name("heard.safetensors")
    assert main(["calibrate", str(dense), str(path), *SAMPLING]) == 0
    return path


def quantized(dense: Path, name: str, *options: str) -> Path:
    out = dense.with_name(f"{name}.safetensors")
    command = ["quantize", str(dense), str(out), "--bits", BITS, "--effort", "fast", *options]
    assert main(command) == 0
    return out


def test_every_layer_that_is_coded_was_heard(dense, heard):
    out = quantized(dense, "fed", "--calibration", str(heard))
    told = checkpoint.inspect(out).plan["calibration"]
    assert told["pictures"] == 2
    assert not told["gated"]
    coded = checkpoint.inspect(out).layers.keys()
    assert coded <= calibration.load(heard).moments.keys()


def test_gated_the_model_is_asked_about_each_layer(dense, heard, capsys, monkeypatch):
    monkeypatch.setattr(
        "comfy_vq.cli.measuring.native_side", lambda family: 8
    )  # or it takes minutes
    out = quantized(dense, "gated", "--calibration", str(heard), "--gated")
    told = checkpoint.inspect(out).plan["calibration"]
    assert told["gated"]
    assert "unchecked" not in capsys.readouterr().out
    free = checkpoint.inspect(quantized(dense, "fed", "--calibration", str(heard), "--force"))
    asked = told["layers"] + sum(told["refused"].values())
    assert asked == free.plan["calibration"]["layers"] > 0


def test_there_is_nothing_to_check_without_a_calibration(dense, capsys):
    out = dense.with_name("none.safetensors")
    assert main(["quantize", str(dense), str(out), "--bits", BITS, "--gated"]) != 0
    assert "--gated: found no --calibration" in capsys.readouterr().err
    assert not out.exists()


def test_killed_it_goes_on_to_the_same_bytes(dense, tmp_path, capsys):
    """Whenever that was: at least one picture had been saved, and not all of them."""
    pictures, whole, out = 24, tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    options = ["--count", str(pictures), *SAMPLING[2:], "--save-every", "0"]
    assert main(["calibrate", str(dense), str(whole), *options]) == 0
    state = tmp_path / "out.safetensors.state"
    command = ["calibrate", str(dense), str(out), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "comfy_vq", *command],
        cwd=CHECKOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 0 < calibration.load(state).pictures < pictures and not out.exists()
    assert main(["calibrate", str(dense), str(out), *options, "--cfg", "2"]) != 0
    assert "state of another calibration" in capsys.readouterr().err
    assert main(command) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert not state.exists()
