"""Run by ComfyUI-Manager after installing: says whether this ComfyUI can run the extension.

Installs nothing: all that the extension needs, ComfyUI has.
"""

from __future__ import annotations

import importlib.util
import sys
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
    hosts = importlib.import_module(f"{PACKAGE}.hosts.verdict")
    try:
        comfyui = locate.find_comfyui()
    except ValueError as error:
        return False, str(error)
    if comfyui is None:
        needed = f"ComfyUI {locate.floor_text()} or newer is needed"
        return True, f"no ComfyUI found around this folder; {needed}"
    found = hosts.judge(comfyui)
    return found.fine, found.line


if __name__ == "__main__":
    version = load_package().__version__
    fine, line = verdict()
    print(f"comfy-vq {version}: {line}")
    sys.exit(0 if fine else 1)
