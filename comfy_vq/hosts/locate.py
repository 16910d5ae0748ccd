"""Where ComfyUI is. Standard library only, so that installers and test runners can ask too."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import VQError

FLOOR = (0, 27, 0)  # the first release whose comfy-kitchen has what the layout needs
VARIABLE = "COMFYUI_PATH"
_NONE = "none"


def find_comfyui() -> Path | None:
    """The folder of the ComfyUI to use, or None: of ``find_all`` the first that is new enough.

    Where all are too old it is the first of them, so that callers can say so.

    Raises:
        VQError: see ``find_all``.
    """
    found = find_all()
    return next(iter(choose(found)[0].values()), found[0] if found else None)


def find_all() -> list[Path]:
    """The folders of all ComfyUIs to consider, the preferred one first.

    They come from one place, in this order: the environment variable ``COMFYUI_PATH``, which may
    name several as ``PATH`` does (``none`` means there is none); the ComfyUI in whose
    ``custom_nodes`` this extension is installed; the folders in ``~/comfy``: ``ComfyUI``, which
    is where comfy-cli puts it, then the others, the newest first.

    Raises:
        VQError: ``COMFYUI_PATH`` names a folder that is not a ComfyUI.
    """
    named = os.environ.get(VARIABLE, "")
    if named.lower() == _NONE:
        return []
    if named:
        return [_named(part) for part in named.split(os.pathsep) if part]
    # Both spellings of this path: custom_nodes may hold a link to a checkout that is elsewhere.
    for here in (Path(__file__).absolute(), Path(__file__).resolve()):
        for parent in here.parents:
            if parent.name == "custom_nodes" and is_comfyui(parent.parent):
                return [parent.parent]
    usual = Path.home() / "comfy"
    found = [path for path in usual.glob("*") if is_comfyui(path)]
    return sorted(found, key=lambda path: (path.name != "ComfyUI", _newest_first(path), path.name))


def choose(folders: Iterable[Path]) -> tuple[dict[str, Path], dict[Path, str]]:
    """One ComfyUI for each version that can run the extension, in the order given.

    Returns:
        version -> folder; and of the folders left out, the reason.
    """
    chosen: dict[str, Path] = {}
    left_out: dict[Path, str] = {}
    for path in folders:
        try:
            version = comfyui_version(path)
        except VQError as error:
            left_out[path] = str(error)
            continue
        if not meets_floor(version):
            left_out[path] = f"ComfyUI {version} is too old: {floor_text()} or newer is needed"
        elif version in chosen:
            left_out[path] = f"ComfyUI {version}, as in {chosen[version]}"
        else:
            chosen[version] = path
    return chosen, left_out


def _named(part: str) -> Path:
    path = Path(part).expanduser().absolute()
    if not is_comfyui(path):
        raise VQError(
            f"{VARIABLE}={part}: this folder holds no ComfyUI (expected comfyui_version.py and "
            f"a folder named comfy); name the folder that main.py is in, or '{_NONE}'"
        )
    return path


def _newest_first(path: Path) -> tuple[int, ...]:
    try:
        return tuple(-number for number in _numbers(comfyui_version(path)))
    except VQError:
        return ()


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


def meets_floor(version: str, floor: tuple[int, ...] = FLOOR) -> bool:
    """Whether a version is ``floor`` or newer; by default, that of a ComfyUI for the extension."""
    return _numbers(version) >= floor


def floor_text(floor: tuple[int, ...] = FLOOR) -> str:
    """A floor as it is written: ``0.27.0``."""
    return ".".join(map(str, floor))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple([*map(int, re.findall(r"\d+", version)), 0, 0, 0][:3])
