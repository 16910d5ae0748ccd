"""The extension in a ComfyUI that cannot run it: one line, no nodes, nothing of the host imported.

The folders here only look like a ComfyUI; ``tests/host/test_old_host.py`` has real ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import comfy_vq
from comfy_server import CHECKOUT
from comfy_vq.hosts.verdict import judge

LOAD = """
import importlib.util, json, logging, sys
from pathlib import Path
host, checkout = sys.argv[1:]
sys.path.insert(0, host)
spec = importlib.util.spec_from_file_location("vq", Path(checkout, "__init__.py"))
module = sys.modules["vq"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
imported = [name for name in ("vq.comfy_vq.nodes", "torch") if name in sys.modules]
offered = [name for name in dir(module) if name.isupper() or name.startswith("comfy_entry")]
print(json.dumps([offered, module.NODE_CLASS_MAPPINGS, imported]))
"""


def comfyui(folder: Path, version: str, api: bool = True, kitchen: str | None = "0.2.16") -> Path:
    """What the verdict looks at: in a process with this folder on its path, that is all there is."""
    (folder / "comfy").mkdir()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    if api:
        (folder / "comfy_api" / "latest").mkdir(parents=True)
    if kitchen is not None:
        information = folder / f"comfy_kitchen-{kitchen}.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Name: comfy-kitchen\nVersion: {kitchen}\n")
    return folder


def load(host: Path) -> tuple[list, str]:
    """What the extension offers there, and what it logs."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(host), str(CHECKOUT)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


REMEDY = "install the requirements.txt of ComfyUI 0.29.0 into the environment it runs in"
OLD = [
    ({"version": "0.26.0"}, "ComfyUI 0.26.0 in {host} is too old: update it to 0.27.0 or newer"),
    ({"version": "0.3.64", "api": False, "kitchen": None}, "ComfyUI 0.3.64 in {host} is too old"),
    ({"version": "0.29.0", "api": False}, "ComfyUI 0.29.0 in {host} has no comfy_api.latest"),
    ({"version": ""}, "comfyui_version.py: no version found"),
    (
        {"version": "0.29.0", "kitchen": "0.2.10"},
        "comfy-kitchen 0.2.10 of {python} is too old, 0.2.16 or newer is needed: " + REMEDY,
    ),
    (
        {"version": "0.29.0", "kitchen": None},
        "{python} lacks comfy-kitchen, 0.2.16 or newer: " + REMEDY,
    ),
]


@pytest.mark.parametrize(("host", "line"), OLD, ids=lambda value: str(value)[:40])
def test_says_one_line_and_offers_nothing(tmp_path, host, line):
    offered, logged = load(comfyui(tmp_path, **host))
    assert offered == [["NODE_CLASS_MAPPINGS"], {}, []]
    assert logged.count("\n") == 1
    assert logged.startswith(f"comfy-vq {comfy_vq.__version__} offers no nodes: ")
    assert line.format(host=tmp_path, python=sys.executable) in logged


def test_a_host_that_states_no_version_is_too_old(tmp_path):
    offered, logged = load(tmp_path)
    assert offered == [["NODE_CLASS_MAPPINGS"], {}, []]
    assert "no comfyui_version.py was found, so this ComfyUI is too old: update it" in logged
    assert logged.count("\n") == 1


def test_the_oldest_that_can_run_it(tmp_path, monkeypatch):
    host = comfyui(tmp_path, "0.27.0")
    monkeypatch.syspath_prepend(host)
    assert judge(host).line == "ready for ComfyUI 0.27.0 (comfy-kitchen 0.2.16)"
    assert judge(host).fine
