"""Fixtures for tests in the real ComfyUI, and the loud skip where there is none.

Two ways to test, both session-wide:

* in this process: ComfyUI is booted before any module here is imported, so tests just
  ``import comfy.sd`` and ``from comfy_vq.hosts.comfy import ...``. ``comfyui`` is its folder and
  ``base`` the temporary folder that its ``folder_paths`` points to. The extension is known under one
  name here, ``comfy_vq``: comfy-kitchen's registry of layouts silently keeps the last of a name, so
  whatever loads the extension as ComfyUI does belongs in a process of its own;
* over HTTP: ``server`` is a ``tests/comfy_server.py:ComfyServer`` with the published files of the
  extension in ``custom_nodes/my.vq-nodes`` and the node ``TestConditioning`` of ``testing_nodes``
  (``text, width=768, tokens=12, pooled_width=0`` -> CONDITIONING).

``run_python(code)`` runs code in a fresh process of this environment.

`make test` runs all of this in each version of ComfyUI that is found, except that tests marked
``one_host`` run in the first alone: what does not depend on the host's version, or is slow and its
mechanics are tested by others.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfy_server import CHECKOUT, ComfyServer
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import VARIABLE, comfyui_version, find_comfyui, meets_floor

REQUIRED = ("comfy_kitchen", "aiohttp", "transformers", "torchsde")


def _find_usable() -> tuple[Path | None, str]:
    """The ComfyUI that this environment can run, or None and the reason."""
    path = find_comfyui()
    if path is None:
        return None, f"no ComfyUI found: set {VARIABLE} to the folder that its main.py is in"
    if not meets_floor(comfyui_version(path)):
        return None, f"ComfyUI {comfyui_version(path)} in {path} is too old"
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        return None, (
            f"{sys.executable} lacks {', '.join(missing)} that the ComfyUI in {path} requires: "
            f"'make test' makes an environment that has them"
        )
    return path, ""


_comfyui, _why_not = _find_usable()
_left_out: Counter[str] = Counter()
_base = Path(tempfile.mkdtemp(prefix="comfy-vq-base-"))


class _SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(_why_not, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent):
    """Boots ComfyUI before a module of this folder is imported, or skips the module unimported."""
    if _comfyui is None:
        return _SkippedModule.from_parent(parent, path=module_path)
    boot(_comfyui, cpu=True, base_directory=_base)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]):
    for item in items:
        if any("reason" not in marker.kwargs for marker in item.iter_markers("one_host")):
            raise pytest.UsageError(f"{item.nodeid}: one_host needs a reason=")


def pytest_deselected(items: list[pytest.Item]):
    for item in items:
        marker = item.get_closest_marker("one_host")
        if marker is not None:
            _left_out[marker.kwargs["reason"]] += 1


def pytest_terminal_summary(terminalreporter, config: pytest.Config):
    if _comfyui is None:
        terminalreporter.section("HOST TESTS SKIPPED", sep="!", yellow=True, bold=True)
        terminalreporter.write_line(f"Nothing was tested in a real ComfyUI: {_why_not}")
    elif "not one_host" in config.option.markexpr:
        terminalreporter.section(f"left out in ComfyUI {comfyui_version(_comfyui)}")
        for reason, count in _left_out.most_common():
            terminalreporter.write_line(f"{count} tests: {reason}")


def pytest_unconfigure():
    shutil.rmtree(_base, ignore_errors=True)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of the ComfyUI under test."""
    assert _comfyui is not None
    return _comfyui


@pytest.fixture(scope="session")
def base() -> Path:
    """The base directory (models, input, output) of the ComfyUI in this process."""
    return _base


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One running server for all tests; leave it alive and idle."""
    running = ComfyServer(comfyui, tmp_path_factory.mktemp("server"))
    try:
        yield running.wait_until_up()
    finally:
        running.stop()


@pytest.fixture(scope="session")
def tiny_checkpoint(server: ComfyServer) -> str:
    """Name of a full checkpoint but for the text encoder, which the server's loaders list."""
    from host.shipped_workflows import CHECKPOINT, write_tiny_checkpoint

    write_tiny_checkpoint(server)
    return CHECKPOINT


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """``run_python(code, *arguments)``: what it printed, after a check that it ended well."""

    def run(code: str, *arguments: object, seconds: float = 300) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=CHECKOUT,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
