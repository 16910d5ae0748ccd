"""Run by ComfyUI-Manager after installing: says whether this ComfyUI can run the extension.

Installs nothing: all that the extension needs, ComfyUI has.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

PACKAGE = "comfy_vq"


def load_package() -> ModuleType:
    """The package beside this file. ComfyUI's portable Python does not look beside the script."""
    source = Path(__file__).resolve().parent / PACKAGE / "__init__.py"
    spec = importlib.util.spec_from_file_location(PACKAGE, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source}: not a Python package; install the extension again")
    package = sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


def verdict() -> tuple[bool, str]:
    """Whether the extension can run here, and one line that says so or what to do."""
    locate = importlib.import_module(f"{PACKAGE}.hosts.locate")
    floor = ".".join(map(str, locate.FLOOR))
    try:
        comfyui = locate.find_comfyui()
        version = locate.comfyui_version(comfyui) if comfyui else ""
    except ValueError as error:
        return False, str(error)
    if comfyui is None:
        return True, f"no ComfyUI found around this folder; ComfyUI {floor} or newer is needed"
    if not locate.meets_floor(version):
        return False, f"ComfyUI {version} in {comfyui} is too old: update it to {floor} or newer"
    try:
        kitchen = metadata.version("comfy-kitchen")
    except metadata.PackageNotFoundError:
        return False, (
            f"{sys.executable} lacks comfy-kitchen, which ComfyUI {version} requires: "
            f"install ComfyUI's requirements.txt into the environment it runs in"
        )
    return True, f"ready for ComfyUI {version} (comfy-kitchen {kitchen})"


if __name__ == "__main__":
    version = load_package().__version__
    fine, line = verdict()
    print(f"comfy-vq {version}: {line}")
    sys.exit(0 if fine else 1)
