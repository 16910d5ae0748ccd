"""The extension in a real ComfyUI that is too old for it, or lacks comfy-kitchen: one line, no nodes.

The older ComfyUI is the one under test in all but the version that it states.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from comfy_server import ComfyServer, install_extension
from comfy_vq.hosts.locate import FLOOR, comfyui_version, floor_text, meets_floor
from comfy_vq.hosts.verdict import KITCHEN, KITCHEN_FLOOR, judge

OWN = ("comfyui_version.py", "custom_nodes", "input", "models", "output", "temp", "user")
LINE = "offers no nodes: ComfyUI 0.26.0 in {} is too old: update it to 0.27.0 or newer"

LOAD = """
import asyncio, importlib.metadata, json, logging, sys
from pathlib import Path
comfyui, base, kitchen = sys.argv[1:]
if kitchen not in ("own", "none"):
    information = Path(base, f"comfy_kitchen-{kitchen}.dist-info")
    information.mkdir()
    (information / "METADATA").write_text(f"Name: comfy-kitchen\\nVersion: {kitchen}\\n")
    sys.path.insert(0, base)
from comfy_vq.hosts.comfy_boot import boot
boot(Path(comfyui), cpu=True, base_directory=Path(base))
import nodes
if kitchen == "none":  # only now: ComfyUI 0.29 itself does not import without it
    for name in [name for name in sys.modules if name.startswith("comfy_kitchen")]:
        sys.modules[name] = None
    versions = importlib.metadata.version
    def version(name):
        if name == "comfy-kitchen":
            raise importlib.metadata.PackageNotFoundError(name)
        return versions(name)
    importlib.metadata.version = version
folder = str(Path(base) / "custom_nodes" / "vq")
records = []
logging.getLogger().addHandler(type("Kept", (logging.Handler,), {
    "emit": lambda self, record: records.append([record.levelname, record.getMessage()])
})())
before = dict(nodes.NODE_CLASS_MAPPINGS)
loaded = asyncio.run(nodes.load_custom_node(folder))
ours = [name for name in sys.modules if name.startswith(folder)]
print(json.dumps({
    "loaded": loaded,
    "nodes": sorted(set(nodes.NODE_CLASS_MAPPINGS) - set(before)),
    "web": sorted(name for name in nodes.EXTENSION_WEB_DIRS if "vq" in name),
    "log": [record for record in records if record[0] not in ("DEBUG", "INFO")],
    "imported": [name for name in ours if "nodes" in name[len(folder):] or "hosts.comfy" in name],
}))
"""


@pytest.fixture(scope="module")
def older(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("older") / "ComfyUI"
    folder.mkdir()
    for item in comfyui.iterdir():
        if item.name in OWN:
            continue
        if item.is_dir():
            (folder / item.name).symlink_to(item, target_is_directory=True)
        else:  # a link to main.py would lead Python to the folder that it points to
            shutil.copy(item, folder)
    (folder / "comfyui_version.py").write_text('__version__ = "0.26.0"\n')
    return folder


@pytest.mark.parametrize(
    ("kitchen", "line"),
    [
        ("own", LINE),
        ("0.2.10", "comfy-kitchen 0.2.10 of {python} is too old, 0.2.16 or newer is needed"),
        ("none", "{python} lacks comfy-kitchen, 0.2.16 or newer: install the requirements.txt"),
    ],
)
def test_the_host_loads_it_without_complaint(
    comfyui, older, tmp_path, run_python, kitchen: str, line: str
):
    install_extension(tmp_path / "custom_nodes" / "vq")
    host = older if kitchen == "own" else comfyui
    output = run_python(LOAD, host, tmp_path, kitchen).splitlines()[-1]
    report = json.loads(output)
    ((level, said),) = report.pop("log")
    python = run_python("import sys; print(sys.executable)").strip()
    assert line.format(older, python=python) in said and "\n" not in said
    assert level == "WARNING"
    assert report == {"loaded": True, "nodes": [], "web": [], "imported": []}


def test_a_server_starts_and_has_no_nodes_of_ours(older: Path, tmp_path: Path):
    server = ComfyServer(older, tmp_path)
    try:
        server.wait_until_up()
        assert server.get("/system_stats")["system"]["comfyui_version"] == "0.26.0"
        offered = server.object_info()
        log = server.log()
    finally:
        server.stop()
    assert "TestConditioning" in offered and "KSampler" in offered
    assert not [name for name, node in offered.items() if node["category"] == "VQ"]
    assert log.count("comfy-vq ") == 1
    assert LINE.format(older) in log
    assert "Traceback" not in log and "IMPORT FAILED" not in log


def test_this_host_is_new_enough(comfyui: Path):
    assert judge(comfyui).fine
    assert judge(comfyui).line.startswith(f"ready for ComfyUI {comfyui_version(comfyui)} (")


def test_the_oldest_host_asks_for_the_oldest_comfy_kitchen(comfyui: Path):
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").split()
    (asked,) = [line.partition("==")[2] for line in lines if line.startswith(f"{KITCHEN}==")]
    if comfyui_version(comfyui) == floor_text(FLOOR):
        assert asked == floor_text(KITCHEN_FLOOR)
    assert meets_floor(asked, KITCHEN_FLOOR)
