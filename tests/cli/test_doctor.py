from types import SimpleNamespace

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.hosts.locate import VARIABLE


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")


def test_says_what_decodes_and_why(run):
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert torch.__version__ in out and "ComfyUI       not found" in out
    for operation in ("decode_additive", "decode_trellis", "decode_int8"):
        assert kernels.explain(operation, torch.device("cpu")) in out


def test_names_old_cards(run, monkeypatch):
    card = SimpleNamespace(name="GeForce RTX 2080", total_memory=8e9, major=7, minor=5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    _, out, _ = run("doctor")
    assert "cuda:0        GeForce RTX 2080, 8.0 GB, capability 7.5" in out
    assert "decode_additive on cuda:0: eager; not triton: needs compute capability 8.0" in out


@pytest.mark.parametrize(
    ("text", "shown"), [('"0.29.0"', "0.29.0 in "), ('"0.1"', "too old"), ("", "no version found")]
)
def test_looks_at_comfyui(run, monkeypatch, tmp_path, text, shown):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfyui_version.py").write_text(f"__version__ = {text}\n")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    status, out, _ = run("doctor")
    assert status == 0 and shown in out
