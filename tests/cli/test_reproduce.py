"""The command without ComfyUI: what it refuses. In it, in ``tests/host/test_reproduce.py``."""

import pytest

from comfy_vq.hosts.locate import VARIABLE


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")


def test_it_needs_comfyui(run, tmp_path):
    status, _, err = run("reproduce", "--model", "demo", "--out", tmp_path / "out")
    assert status == 2 and VARIABLE in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_only_the_shipped_model_needs_no_file(run, tmp_path):
    status, _, err = run("reproduce", "--model", "sdxl")
    assert status == 2 and "--weights: found none" in err
    status, _, err = run(
        "reproduce", "--model", "sdxl", "--weights", tmp_path / "absent.safetensors"
    )
    assert status == 2 and "no such file" in err


@pytest.mark.parametrize("option", ["--count", "--rounds", "--adam-steps", "--evaluate"])
def test_counts_are_whole_numbers_from_one(run, option):
    status, _, err = run("reproduce", "--model", "demo", option, "0")
    assert status == 2 and "expected a whole number from 1" in err


def test_the_help_names_the_papers_numbers_and_the_demos(run):
    status, said, _ = run("reproduce", "--help")
    text = " ".join(said.split())
    assert status == 0 and "prompts sampled before each block group; 256, of the demo 4" in text
    assert "of fine-tuning; 1e-06, of the demo 0.0001" in text
