import pytest

from comfy_vq.demo.model_files import model_files
from comfy_vq.errors import VQError


def test_missing_files_are_named_and_where_to_get_them(tmp_path):
    (tmp_path / "unet.safetensors").touch()
    with pytest.raises(VQError, match="autoencoder.safetensors is missing.*clone the repository"):
        model_files(tmp_path)


def test_both_files_are_found(tmp_path):
    for name in ("unet.safetensors", "autoencoder.safetensors"):
        (tmp_path / name).touch()
    assert model_files(tmp_path).folder == tmp_path
