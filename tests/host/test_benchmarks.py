"""The benchmark of a step in the real ComfyUI, on a tiny model."""

import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from benchmarks import layers, lora, step, step_child
from benchmarks.kernel_settings import Settings
from benchmarks.overhead import overhead_table
from benchmarks.random_vq import random_weight
from benchmarks.timing import Timer
from comfy_server import CHECKOUT
from comfy_vq import checkpoint
from host.families import random_vq_model

pytestmark = pytest.mark.one_host(
    reason="benchmarks reach the host through what its own tests run in every version"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dense file and the VQ file that decodes to it."""
    folder = tmp_path_factory.mktemp("step")
    dense, coded = folder / "dense.safetensors", folder / "vq.safetensors"
    model = random_vq_model("sd15", torch.float16)
    checkpoint.save(coded, model)
    checkpoint.write_decoded(dense, model)
    return dense, coded


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.step", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)


def test_dense_and_vq_in_one_table(files):
    done = run(*files, "--dtype", "bf16", "--pixels", "64", "--steps", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT MEASURED" not in done.stdout  # bfloat16 layers, batches of 2, finite latents
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| eager")]
    assert [row[1] for row in rows] == ["dense", "VQ", "VQ / dense"]
    assert all(cell.strip(" |").endswith("x") for cell in rows[2][2:] if cell.strip(" |") != "-")


def test_what_a_card_is_needed_for_is_said(files):
    if torch.cuda.is_available():
        pytest.skip("a graphics card is here")
    done = run(*files, "--modes", "graphs")
    assert done.returncode == 0
    assert "NOT MEASURED OR NOT AS ASKED FOR: graphs: needs a graphics card" in done.stdout


def test_a_model_that_fails_is_named_and_the_other_measured(monkeypatch, capsys):
    found = dict.fromkeys(("load_seconds", "seconds", "load_peak", "peak", "resident"), 1)
    found |= {"device_peak": None, "dtypes": ["bfloat16"], "batches": [2], "finite": True}
    found["int8_layers"] = 0

    def fake(path, name, mode, args):
        return "ended with 1: why" if name == "dense" else step.with_activations(dict(found))

    monkeypatch.setattr(step, "run", fake)
    monkeypatch.setattr(sys, "argv", ["step.py", "dense.safetensors", "vq.safetensors"])
    assert step.main() == 1
    printed = capsys.readouterr().out
    assert "NOT MEASURED OR NOT AS ASKED FOR: eager, dense: ended with 1: why" in printed
    assert "| eager | VQ |" in printed and "VQ / dense" not in printed


def test_a_file_that_does_not_load_is_no_result(files, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    done = run(broken, files[1], "--models", "dense")
    assert done.returncode == 1
    assert "NOT MEASURED OR NOT AS ASKED FOR: eager, dense: ended with 1: " in done.stdout


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtypes": ["float32"]}, "layers were given float32, not bfloat16"),
        ({"batches": [1]}, "batches of [1], not of 2"),
        ({"int8_layers": 7}, "7 layers computed in int8"),
        ({"finite": False}, "the latents are not finite"),
    ],
)
def test_what_was_not_asked_for_is_told(change, told):
    asked_for = {"dtypes": ["bfloat16"], "batches": [2], "int8_layers": 0, "finite": True}
    assert step.surprises(asked_for, "VQ", "bf16") == []
    assert step.surprises({**asked_for, **change}, "VQ", "bf16") == [told]


def test_int8_that_is_asked_for_and_not_used_is_told():
    found = {"dtypes": ["float16"], "batches": [2], "int8_layers": 0, "finite": True}
    assert step.surprises(found, "VQ int8", "fp16") == ["0 layers computed in int8"]


def test_int8_is_the_layer_but_for_rounded_activations():
    weight, x = random_weight((64, 256), 3), torch.randn(32, 256)
    expected = x @ weight.decode().T
    error = (layers.int8_linear(x, weight, None) - expected).norm() / expected.norm()
    assert 0.001 < error < 0.015


def test_overhead_of_layers_in_comfyui_is_beside_that_of_bare_ones():
    settings = Settings(Timer(torch.device("cpu"), 1), torch.float32, 3)
    printed = overhead_table(settings)
    assert "Not measured" not in printed and "Error" not in printed
    for layer in (
        "torch, dense",
        "VQ exact",
        "VQ int8",
        "ComfyUI, dense",
        "ComfyUI, VQ, each by itself",
        "ComfyUI, VQ, kept decoded",
    ):
        assert f"| {layer} |" in printed


def test_calls_are_timed_and_counted():
    calls = step_child.Calls(torch.device("cpu"))
    x, sigma = torch.ones(2, 4), torch.ones(2)
    arguments = {"input": x, "timestep": sigma, "c": {"c_crossattn": x}}
    output = calls(lambda x, sigma, c_crossattn: x + c_crossattn, arguments)
    assert torch.equal(output, x + x)
    assert calls.batches == [2] and len(calls.seconds) == 1 and calls.seconds[0] > 0


def test_what_loras_cost(monkeypatch):
    monkeypatch.setattr("benchmarks.random_vq.random_sdxl", lambda bits: random_vq_model("sd15"))
    with torch.inference_mode():
        table, _ = lora.cost_table(Namespace(pixels=64, steps=3, rank=4))
    lines = table.splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines[4:]]
    assert [row[0] for row in rows] == [
        "0",
        "1, beside",
        "4, beside",
        "1, in the weight",
        "4, in the weight",
    ]
    assert rows[0][2] == rows[0][5] == "1.00x" and rows[0][3] == "0"
    assert all(float(row[2].rstrip("x")) > 0 for row in rows)
