"""``install.py`` as ComfyUI-Manager runs it: in the extension's folder, by ComfyUI's Python."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_server import install_extension
from comfy_vq.hosts.verdict import judge


@pytest.fixture
def extension(tmp_path: Path) -> Path:
    """Installed in a folder that looks like a ComfyUI 0.29.0."""
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "comfy_api" / "latest").mkdir(parents=True)
    (comfyui / "comfyui_version.py").write_text('__version__ = "0.29.0"\n')
    folder = comfyui / "custom_nodes" / "my.vq-nodes 2"
    install_extension(folder)
    return folder


def install(extension: Path) -> tuple[int, str]:
    """Exit status and output; in isolated mode Python does not look beside the script."""
    environment = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    done = subprocess.run(
        [sys.executable, "-I", "install.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=extension,
        env=environment,
    )
    return done.returncode, done.stdout + done.stderr


def test_says_one_line(extension):
    status, output = install(extension)
    assert output.count("\n") == 1
    assert "ComfyUI 0.29.0" in output and "comfy-kitchen" in output
    assert status == (0 if "ready" in output else 1)


def test_old_comfyui_is_refused(extension):
    (extension.parents[1] / "comfyui_version.py").write_text('__version__ = "0.26.0"\n')
    status, output = install(extension)
    assert status == 1
    assert "too old: update it to 0.27.0" in output


def test_the_extension_says_the_same_as_its_installer(extension):
    _, output = install(extension)
    said = judge(extension.parents[1]).line
    assert output.strip().endswith(f": {said}")
