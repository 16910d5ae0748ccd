"""Where ComfyUI is. Standard library only, so that installers and test runners can ask too."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import VQError

FLOOR = (0, 27, 0)  # the first release whose comfy-kitchen has what the layout needs
VARIABLE = "COMFYUI_PATH"
_NONE = "none"


def find_comfyui() -> Path | None:
    """The folder of the ComfyUI to use, or None.

    In this order: the environment variable ``COMFYUI_PATH`` (``none`` means there is none); the
    ComfyUI in whose ``custom_nodes`` this extension is installed; ``~/comfy/ComfyUI``.

    Raises:
        VQError: ``COMFYUI_PATH`` names a folder that is not a ComfyUI.
    """
    named = os.environ.get(VARIABLE, "")
    if named.lower() == _NONE:
        return None
    if named:
        path = Path(named).expanduser().absolute()
        if not is_comfyui(path):
            raise VQError(
                f"{VARIABLE}={named}: this folder holds no ComfyUI (expected comfyui_version.py and "
                f"a folder named comfy); name the folder that main.py is in, or '{_NONE}'"
            )
        return path
    # Both spellings of this path: custom_nodes may hold a link to a checkout that is elsewhere.
    for here in (Path(__file__).absolute(), Path(__file__).resolve()):
        for parent in here.parents:
            if parent.name == "custom_nodes" and is_comfyui(parent.parent):
                return parent.parent
    usual = Path.home() / "comfy" / "ComfyUI"
    return usual if is_comfyui(usual) else None


def is_comfyui(path: Path) -> bool:
    """Whether this is the folder that ComfyUI's ``main.py`` is in."""
    return (path / "comfyui_version.py").is_file() and (path / "comfy").is_dir()


def comfyui_version(path: Path) -> str:
    """The version that a ComfyUI folder states, such as ``0.29.0``, without running any of it.

    Raises:
        VQError: the folder states none.
    """
    stated = path / "comfyui_version.py"
    text = stated.read_text(encoding="utf-8") if stated.is_file() else ""
    found = re.search(r"""__version__\s*=\s*["']([^"']+)["']""", text)
    if found is None:
        raise VQError(f"{stated}: no version found, __version__ = '...' was expected")
    return found.group(1)


def meets_floor(version: str) -> bool:
    """Whether a ComfyUI of this version can run the extension."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    return tuple([*numbers, 0, 0, 0][:3]) >= FLOOR
