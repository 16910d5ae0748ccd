"""The three ways in: a copy in custom_nodes, a checkout, a wheel. ``tests/host`` has the first."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import comfy_vq
from comfy_server import CHECKOUT, install_extension
from comfy_vq.hosts.locate import floor_text

ROUND_TRIP = """
import torch, comfy_vq
from comfy_vq import codecs
weight = torch.randn(16, 64)
coded = codecs.encode(weight, bits=3, effort="fast")
assert coded.decode().shape == weight.shape
print(comfy_vq.__file__)
"""
MOST_BYTES = 4 << 20  # every user downloads this


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The files that users get."""
    folder = tmp_path_factory.mktemp("published") / "comfy-vq"
    install_extension(folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    install_extension(source)  # a copy, because building leaves its traces
    python("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (built,) = folder.glob("comfy_vq-*.whl")
    return built


def python(*arguments: str | Path, cwd: Path = CHECKOUT, path: Path | None = None) -> str:
    """What Python printed, after a check that it ended well; ``path`` goes into PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def test_wheel_holds_the_package_and_nothing_else(wheel: Path, published: Path):
    places = {"comfy_vq": "comfy_vq", "kernels": "comfy_vq/kernels"}
    sources = {
        f"{inside}/{file.relative_to(published / folder).as_posix()}"
        for folder, inside in places.items()
        for file in (published / folder).rglob("*.*")
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == sources


def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    assert python("-c", ROUND_TRIP, cwd=tmp_path, path=target).startswith(str(target))


def test_checkout_works_as_it_is():
    assert Path(python("-c", ROUND_TRIP)).is_relative_to(CHECKOUT)


def test_command_line_from_a_checkout():
    assert "quantize" in python("-m", "comfy_vq", "--help")


def test_kernels_folder_does_not_shadow_the_package_of_that_name(tmp_path: Path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("whose = 'theirs'\n")
    code = "import comfy_vq.kernels, kernels; print(kernels.whose)"
    assert python("-c", code, path=tmp_path) == "theirs"


def test_published_files(published: Path):
    expected = {"__init__.py", "LICENSE", "README.md", "comfy_vq", "docs", "install.py", "kernels"}
    expected |= {"pyproject.toml", "requirements.txt", "web", "workflows"}
    assert {file.name for file in published.iterdir()} == expected
    assert sum(file.stat().st_size for file in published.rglob("*")) < MOST_BYTES


def test_license_is_apache():
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_version_is_stated_alike():
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.+)"', project, re.MULTILINE) == [comfy_vq.__version__]


def test_oldest_comfyui_is_stated_alike():
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    stated = re.findall(r'^requires-comfyui = "(.+)"', project, re.MULTILINE)
    assert stated == [f">={floor_text()}"]
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert f"In ComfyUI {floor_text()} or newer" in readme


def test_requirements_leave_the_host_alone():
    """Manager installs line by line; whatever ComfyUI owns must not be moved by us."""
    lines = (CHECKOUT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert named == ["gguf", "matplotlib"]  # neither owned by ComfyUI, and no versions


def test_published_code_never_evaluates_text(published: Path):
    """The registry refuses extensions that call eval or exec."""
    for file in published.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), f"{file}:{node.lineno}"
