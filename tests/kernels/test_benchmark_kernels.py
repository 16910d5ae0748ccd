"""The benchmark of layers and kernels runs, compares like with like, and says what it left out."""

import sys

import gguf
import numpy as np
import pytest
import torch

from benchmarks import kernels as script
from benchmarks import layers, q4_k, timing
from benchmarks.random_vq import random_sdxl, random_weight
from comfy_vq import kernels
from comfy_vq.kernels import dispatch, eager

CPU = torch.device("cpu")


def test_q4_k_is_what_gguf_dequantizes():
    blocks = np.random.default_rng(0).integers(0, 256, (64, q4_k.BYTES), dtype=np.uint8)
    halves = np.random.default_rng(1).standard_normal((64, 2)).astype(np.float16)
    blocks[:, :4] = halves.view(np.uint8)
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_K)
    found = q4_k.dequantize(torch.from_numpy(blocks), torch.float32)
    assert np.array_equal(found.numpy(), expected)


def test_random_blocks_have_finite_weights():
    blocks = q4_k.random_blocks(1024 * q4_k.WEIGHTS, CPU)
    assert q4_k.dequantize(blocks, torch.float16).isfinite().all()


@pytest.mark.parametrize(
    ("bits", "codec"), [(1, "additive"), (4, "additive"), (3, "trellis"), (8, "int8")]
)
def test_random_weights_keep_a_network_finite(bits, codec):
    weight = random_weight((256, 512), bits, codec)
    assert weight.decode().std() == pytest.approx(512**-0.5, rel=0.2)


def test_a_random_model_has_sdxl_s_size(monkeypatch):
    monkeypatch.setattr("benchmarks.random_vq.random_weight", lambda *_, **__: None)
    model = random_sdxl()
    assert len(model.layers) > 780
    assert model.plan["bits"] == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize("operation", [o for o in dispatch.OPERATIONS if o.startswith("decode")])
def test_each_implementation_runs_alone(operation):
    codec, _ = layers.codec_of(operation)
    weight = random_weight((16, 128), 8 if codec == "int8" else 3, codec)
    before = list(dispatch._KERNELS[operation])
    call, moved = layers.decode_call(operation, weight, torch.float32)
    expected = call().clone()
    seen = []
    for kernel in before:
        with layers.only(operation, kernel):
            seen.append(kernels.explain(operation, CPU).split(": ")[1].split(";")[0])
    assert dispatch._KERNELS[operation] == before
    assert seen[-1] == "eager"
    eagerly = dispatch.Kernel("eager", getattr(eager, operation))
    with layers.only(operation, eagerly):
        assert torch.equal(call(), expected)
    stored = sum(tensor.nbytes for tensor in weight.tensors.values())
    assert moved == stored + expected.nbytes


def test_a_tiny_run_prints_every_table(monkeypatch, capsys):
    monkeypatch.setenv("COMFYUI_PATH", "none")
    options = (
        "--device cpu --dtype fp32 --repeats 1 --rows-scale 0.001 --width-scale 4 --copy-mib 1"
    )
    monkeypatch.setattr(sys, "argv", ["kernels.py", *options.split()])
    script.main()
    printed = capsys.readouterr().out
    assert "failed" not in printed
    for expected in (
        f"python -m benchmarks.kernels {options}",
        "* decode_additive on cpu: ",
        "| 8,160,160 |",
        "| 640 to 320 at 4x4 |",
        "| decode_additive M=3 | 320x1280 | eager |",
        "| decode_trellis 5 bits | 320x1280 | cpu |",
        "| decode_trellis 3 bits | 160x160 | cpu |",
        "| decode_trellis_int8 3 bits | 2560x320 | cpu |",
        "| Q4_K | 2560x320 | eager |",
        "decode_additive does not run triton: needs a device cuda",
        "| VQ exact |",
        "Not measured in ComfyUI: no ComfyUI found",
    ):
        assert expected in printed


def test_what_fails_is_a_reason_in_its_own_cell():
    def fail():
        raise RuntimeError("no kernel image\nand more")

    timer = timing.Timer(CPU, 1)
    settings = script.Settings(timer, torch.float32, 3)
    assert script._ratio(fail, 1.0, settings) == "failed: RuntimeError: no kernel image"
    assert script._ratio(layers.Missing("why"), 1.0, settings) == "-"
