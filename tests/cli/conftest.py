"""A small dense model on disk, and the command line run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq.cli import main

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="session")
def dense(tmp_path_factory) -> Path:
    """A full checkpoint of a v-prediction model: diffusion model, some of a VAE, a root key."""
    path = tmp_path_factory.mktemp("dense") / "tiny.safetensors"
    weights = sd_model.state_dict(64, 64, dtype=torch.float16)
    tensors = {PREFIX + key: tensor for key, tensor in weights.items()}
    tensors |= {"first_stage_model.conv.weight": torch.ones(3, 3), "v_pred": torch.tensor([])}
    save_file(tensors, path, {"format": "pt", "author": "someone"})
    return path


@pytest.fixture(scope="session")
def coded(dense, tmp_path_factory) -> Path:
    """That model at 4 bits."""
    path = tmp_path_factory.mktemp("coded") / "tiny-VQ4.safetensors"
    command = ["quantize", str(dense), str(path), "--bits", "4", "--effort", "fast"]
    assert main([*command, "--device", "cpu"]) == 0
    return path


@pytest.fixture
def run(capsys):
    """Run one command: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        return status, *capsys.readouterr()

    return run
