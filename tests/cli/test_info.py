import json
import subprocess
import sys

import pytest

from comfy_vq import checkpoint


def test_text_names_sizes_layers_and_origin(run, coded):
    status, out, _ = run("info", coded)
    assert status == 0
    assert "tiny.safetensors" in out and "model.diffusion_model." in out
    for layer in checkpoint.inspect(coded).layers:
        assert layer in out


def test_json_adds_up(run, coded):
    status, out, _ = run("info", coded, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["bits_per_weight"] == pytest.approx(8 * found["bytes"] / found["weights"])
    assert found["file_bytes"] == coded.stat().st_size
    stored = sum(part["bytes"] for kind in ("layers", "dense") for part in found[kind].values())
    sets = found["bytes"] - stored
    assert 0 < sets < 0.05 * found["bytes"]


def test_components_are_shown_each_with_its_own_size(run, full, coded):
    _, out, _ = run("info", full)
    alone = run("info", coded)[1].splitlines()
    assert alone[1] in out.splitlines(), "the model is counted by itself"
    assert "clip    0.00 M weights" in out and "vae     0.00 M weights" in out
    assert "about   type flux" in out and "t5xxl.transformer.q" in out
    found = json.loads(run("info", full, "--json")[1])
    assert found["components"].keys() == {"clip", "vae"}
    assert found["components"]["clip"]["about"] == {"type": "flux"}
    assert "components" not in json.loads(run("info", coded, "--json")[1])


def test_a_dense_file_is_refused(run, dense):
    status, _, err = run("info", dense)
    assert status == 2 and "not a VQ checkpoint" in err


def test_a_reader_who_has_enough_is_no_error(coded):
    command = [sys.executable, "-m", "comfy_vq", "info", str(coded)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
