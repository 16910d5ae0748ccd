from pathlib import Path

import pytest

from comfy_vq.errors import VQError
from comfy_vq.hosts import locate


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfyui_version.py").write_text('# generated\n__version__ = "0.29.1"\n')
    return folder


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(locate.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(locate, "__file__", str(tmp_path / "checkout/comfy_vq/hosts/locate.py"))


def test_environment_variable_names_it(comfyui, monkeypatch):
    monkeypatch.setenv(locate.VARIABLE, str(comfyui))
    assert locate.find_comfyui() == comfyui


def test_none_means_none_even_where_there_is_one(comfyui, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "comfy").symlink_to(comfyui.parent, target_is_directory=True)
    assert locate.find_comfyui() == tmp_path / "home" / "comfy" / "ComfyUI"
    monkeypatch.setenv(locate.VARIABLE, "none")
    assert locate.find_comfyui() is None


def test_found_around_an_installed_extension(comfyui, monkeypatch):
    installed = comfyui / "custom_nodes" / "my.vq-nodes 2" / "comfy_vq" / "hosts" / "locate.py"
    monkeypatch.setattr(locate, "__file__", str(installed))
    assert locate.find_comfyui() == comfyui


def test_nothing_to_find():
    assert locate.find_comfyui() is None


def test_wrong_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(locate.VARIABLE, str(tmp_path))
    with pytest.raises(VQError, match=r"COMFYUI_PATH=.*holds no ComfyUI.*main\.py"):
        locate.find_comfyui()


def test_version_is_read_without_running_it(comfyui):
    assert locate.comfyui_version(comfyui) == "0.29.1"


def test_version_missing(comfyui):
    (comfyui / "comfyui_version.py").write_text("")
    with pytest.raises(VQError, match="no version found"):
        locate.comfyui_version(comfyui)


@pytest.mark.parametrize(
    ("version", "enough"),
    [("0.26.9", False), ("0.27.0", True), ("0.27", True), ("0.100.0", True), ("1.0.0rc1", True)],
)
def test_floor(version, enough):
    assert locate.meets_floor(version) is enough
