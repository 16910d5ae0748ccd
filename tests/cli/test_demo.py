import pytest

from comfy_vq.hosts.locate import VARIABLE


def test_without_the_model_one_line_says_where_it_is(run, tmp_path):
    status, _, err = run("demo", "--model", tmp_path, "--out", tmp_path / "out")
    assert status == 2 and err.count("\n") == 1
    assert "unet.safetensors is missing" in err and "clone the repository" in err
    assert list(tmp_path.iterdir()) == []


def test_comfyui_asked_for_and_not_found(run, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "none")
    for name in ("unet.safetensors", "autoencoder.safetensors"):
        (tmp_path / name).touch()
    status, _, err = run("demo", "--host", "comfyui", "--model", tmp_path)
    assert status == 2 and "--host diffusers" in err


@pytest.mark.parametrize("pictures", ["0", "-1", "many"])
def test_pictures_are_counted_from_one(run, pictures):
    status, _, err = run("demo", "--pictures", pictures)
    assert status == 2 and "expected a whole number from 1" in err
