from pathlib import Path

import pytest

from comfy_vq.hosts.modes import split_compute


@pytest.mark.parametrize(
    ("given", "file", "compute"),
    [
        ("a/model.safetensors", "a/model.safetensors", "exact"),
        ("a/model.safetensors@int8", "a/model.safetensors", "int8"),
        ("a/model.safetensors@auto", "a/model.safetensors", "auto"),
        ("me@home/model.safetensors", "me@home/model.safetensors", "exact"),
        ("model@home.safetensors", "model@home.safetensors", "exact"),
        ("@int8", "@int8", "exact"),
    ],
)
def test_a_file_and_how_to_compute(given, file, compute):
    assert split_compute(Path(given)) == (Path(file), compute)


def test_a_file_that_is_called_so_is_meant(tmp_path):
    path = tmp_path / "model@int8"
    path.touch()
    assert split_compute(path) == (path, "exact")
