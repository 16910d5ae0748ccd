"""``finetune`` on files, through the host; killed for real, and gone on with."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy_server import CHECKOUT
from comfy_vq import checkpoint
from comfy_vq.cli import main
from comfy_vq.model import Component, VQModel
from host.families import random_vq_model

OPTIONS = ["--count", "3", "--steps", "2", "--size", "64", "--rows", "2", "--iterations", "12"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """A dense model, and a VQ file of one that differs from it a little, with an autoencoder in it."""
    folder, vq = tmp_path_factory.mktemp("finetune"), random_vq_model("flux")
    generator = torch.Generator().manual_seed(3)
    weights = {
        key: (
            tensor
            * (1 + 0.1 * torch.randn(len(tensor), *[1] * (tensor.ndim - 1), generator=generator))
        )
        for key, tensor in vq.decode(torch.float32).items()
    }
    save_file(
        {key: tensor.contiguous() for key, tensor in weights.items()}, folder / "dense.safetensors"
    )
    vae = Component(VQModel({}, {"decoder.weight": torch.ones(3)}))
    checkpoint.save(folder / "vq.safetensors", vq, components={"vae": vae})
    return folder / "dense.safetensors", folder / "vq.safetensors"


def command(files: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return ["finetune", *map(str, files), str(out), *OPTIONS, *more]


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> Path:
    """What a run makes that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "tuned.safetensors"
    assert main(command(files, path)) == 0
    return path


def test_writes_a_better_file_of_the_same_size(files, whole, capsys):
    before, after = checkpoint.inspect(files[1]), checkpoint.inspect(whole)
    assert (after.nbytes, after.numel) == (before.nbytes, before.numel)
    assert after.components.keys() == {"vae"}
    assert [path.name for path in whole.parent.iterdir()] == [whole.name]


def test_killed_and_called_again_it_ends_as_if_it_had_not_been(files, whole, tmp_path):
    out = tmp_path / "tuned.safetensors"
    how = command(files, out, "--save-every", "0")
    running = subprocess.Popen([sys.executable, "-m", "comfy_vq", *how], cwd=CHECKOUT)
    state = out.with_name("tuned.safetensors.state")
    until = time.monotonic() + 300
    while not state.exists() and time.monotonic() < until:
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert state.exists() and not out.exists()
    assert main(how) == 0
    assert not state.exists()
    for mine, other in zip(
        checkpoint.load(out).layers.values(), checkpoint.load(whole).layers.values(), strict=True
    ):
        assert all(torch.equal(mine.tensors[name], other.tensors[name]) for name in mine.tensors)


def test_a_state_of_other_prompts_is_refused(files, tmp_path, capsys):
    out = tmp_path / "tuned.safetensors"
    out.with_name("tuned.safetensors.state").write_bytes(b"nothing")
    assert main(command(files, out)) == 2
    assert "remove the file to begin anew" in capsys.readouterr().err


def test_a_model_that_is_not_vq_is_refused(files, tmp_path, capsys):
    assert main(command((files[0], files[0]), tmp_path / "a.safetensors")) == 2
    assert "VQ" in capsys.readouterr().err
