import pytest

from comfy_vq.hosts.locate import VARIABLE


@pytest.mark.parametrize("compute", ["int8", "auto"])
def test_int8_needs_comfyui(run, dense, coded, tmp_path, monkeypatch, compute):
    monkeypatch.setenv(VARIABLE, "none")
    status, _, err = run("evaluate", dense, f"{coded}@{compute}", "--out", tmp_path)
    assert status == 2 and "found no ComfyUI" in err


@pytest.mark.parametrize(
    ("candidates", "message"),
    [(("gone.safetensors@int8",), "gone.safetensors: no such file"), ((), "named twice")],
)
def test_names_that_cannot_be_meant(run, dense, coded, tmp_path, candidates, message):
    candidates = candidates or (f"{coded}@int8",) * 2
    status, _, err = run("evaluate", dense, *candidates, "--out", tmp_path)
    assert status == 2 and message in err
