import os
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


def place(folder: Path, version: str) -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


def test_environment_variable_names_several(comfyui, monkeypatch, tmp_path):
    other = place(tmp_path / "other", "0.27.0")
    monkeypatch.setenv(locate.VARIABLE, os.pathsep.join([str(other), str(comfyui)]))
    assert locate.find_all() == [other, comfyui]
    assert locate.find_comfyui() == other


def test_one_wrong_folder_of_several_is_named(comfyui, monkeypatch, tmp_path):
    monkeypatch.setenv(locate.VARIABLE, os.pathsep.join([str(comfyui), str(tmp_path)]))
    with pytest.raises(VQError, match=rf"COMFYUI_PATH={tmp_path}: this folder holds no ComfyUI"):
        locate.find_all()


def test_all_at_home_are_found_the_usual_one_first_then_the_newest():
    home = Path.home() / "comfy"
    versions = {"ComfyUI": "0.28.0", "a": "0.27.0", "b": "0.100.0", "c": "0.29.0"}
    folders = {name: place(home / name, version) for name, version in versions.items()}
    (home / "no comfyui").mkdir()
    assert locate.find_all() == [folders[name] for name in ("ComfyUI", "b", "c", "a")]
    assert locate.find_comfyui() == folders["ComfyUI"]


def test_around_the_extension_no_other_counts(comfyui, monkeypatch):
    place(Path.home() / "comfy" / "ComfyUI", "0.29.0")
    installed = comfyui / "custom_nodes" / "vq" / "comfy_vq" / "hosts" / "locate.py"
    monkeypatch.setattr(locate, "__file__", str(installed))
    assert locate.find_all() == [comfyui]


def test_one_for_each_version_that_can_run_it():
    home = Path.home() / "comfy"
    first = place(home / "ComfyUI", "0.29.0")
    same, old = place(home / "same", "0.29.0"), place(home / "old", "0.26.0")
    floor = place(home / "floor", "0.27.0")
    unstated = place(home / "unstated", "")
    chosen, left_out = locate.choose(locate.find_all())
    assert chosen == {"0.29.0": first, "0.27.0": floor}
    assert left_out[same] == f"ComfyUI 0.29.0, as in {first}"
    assert left_out[old] == "ComfyUI 0.26.0 is too old: 0.27.0 or newer is needed"
    assert "no version found" in left_out[unstated]


def test_one_that_is_too_old_is_used_only_where_there_is_no_other():
    old = place(Path.home() / "comfy" / "ComfyUI", "0.26.0")
    assert locate.find_comfyui() == old
    newer = place(Path.home() / "comfy" / "newer", "0.27.0")
    assert locate.find_comfyui() == newer
