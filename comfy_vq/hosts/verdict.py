"""Whether a ComfyUI can run the extension, said in one line. Standard library only.

The installer asks, and the extension itself before it imports anything of the host's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from ..errors import VQError
from .locate import FLOOR, comfyui_version, floor_text, meets_floor

KITCHEN = "comfy-kitchen"
KITCHEN_FLOOR = (0, 2, 16)  # what the oldest ComfyUI asks for: requantize_from_float, int8_linear


@dataclass(frozen=True)
class Verdict:
    """Whether the extension can run, and one line that says with what, or what to do."""

    fine: bool
    line: str


def judge_running() -> Verdict:
    """On the ComfyUI that this process runs."""
    stated = util.find_spec("comfyui_version")
    if stated is None or stated.origin is None:
        return Verdict(
            False,
            f"no comfyui_version.py was found, so this ComfyUI is too old: "
            f"update it to {floor_text()} or newer",
        )
    return judge(Path(stated.origin).parent)


def judge(comfyui: Path) -> Verdict:
    """On the ComfyUI in a folder, run by this Python."""
    try:
        version = comfyui_version(comfyui)
    except VQError as error:
        return Verdict(False, f"{error}; update ComfyUI to {floor_text()} or newer")
    if not meets_floor(version, FLOOR):
        return Verdict(
            False,
            f"ComfyUI {version} in {comfyui} is too old: update it to {floor_text()} or newer",
        )
    if not (comfyui / "comfy_api" / "latest").is_dir():
        return Verdict(
            False,
            f"ComfyUI {version} in {comfyui} has no comfy_api.latest, in which nodes are written: "
            f"update it to {floor_text()} or newer",
        )
    return _judge_kitchen(version)


def _judge_kitchen(version: str) -> Verdict:
    needed = f"{floor_text(KITCHEN_FLOOR)} or newer"
    remedy = f"install the requirements.txt of ComfyUI {version} into the environment it runs in"
    try:
        found = metadata.version(KITCHEN)
    except metadata.PackageNotFoundError:
        return Verdict(False, f"{sys.executable} lacks {KITCHEN}, {needed}: {remedy}")
    if not meets_floor(found, KITCHEN_FLOOR):
        line = f"{KITCHEN} {found} of {sys.executable} is too old, {needed} is needed: {remedy}"
        return Verdict(False, line)
    return Verdict(True, f"ready for ComfyUI {version} ({KITCHEN} {found})")
