"""A small dense model on disk, and the command line run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq import checkpoint, codecs
from comfy_vq.cli import main
from comfy_vq.model import Component, Source, VQModel

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


@pytest.fixture(scope="session")
def full(coded, tmp_path_factory) -> Path:
    """That model with two text encoders, one of them coded, and an autoencoder."""
    generator = torch.Generator().manual_seed(0)
    weight = codecs.encode(torch.randn(64, 64, generator=generator).half(), 4, effort="fast")
    dense = {"t5xxl.transformer.shared.weight": torch.ones(8, 64).half()}
    dense |= {
        "clip_l.transformer.norm.weight": torch.ones(64),
        "clip_l.logit_scale": torch.ones(()),
    }
    source = Source("t5.safetensors", root={"spiece_model": torch.zeros(3, dtype=torch.uint8)})
    clip = VQModel({"t5xxl.transformer.q": weight}, dense, source, {"bits": 4.0})
    vae = VQModel({}, {"decoder.conv.weight": torch.ones(3, 3)}, Source("vae.safetensors"))
    path = tmp_path_factory.mktemp("full") / "full.safetensors"
    components = {"clip": Component(clip, {"type": "flux"}), "vae": Component(vae)}
    checkpoint.save(path, checkpoint.load(coded), components=components)
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
