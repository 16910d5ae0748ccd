"""Where VQ checkpoints lie, and which of the files there are ones."""

from __future__ import annotations

import os
from functools import lru_cache

import folder_paths

from ... import checkpoint
from ...checkpoint.refusal import refuse

FOLDERS = ("diffusion_models", "vq")


def register() -> None:
    """Make ``models/vq`` known to the host, beside folders that the user has mapped to ``vq``."""
    folder_paths.add_model_folder_path("vq", os.path.join(folder_paths.models_dir, "vq"))
    folder_paths.folder_names_and_paths["vq"][1].add(".safetensors")


def vq_files() -> list[str]:
    """Names of all VQ checkpoints, relative to the folder that each lies in."""
    names = {
        name
        for folder in FOLDERS
        for name in folder_paths.get_filename_list(folder)
        if _is_vq(folder_paths.get_full_path(folder, name))
    }
    return sorted(names)


def path_of(name: str) -> str:
    """The VQ checkpoint of a name.

    Raises:
        VQError: there is no such file in the folders, or only one of another kind.
    """
    paths = [folder_paths.get_full_path(folder, name) for folder in FOLDERS]
    found = [path for path in paths if path is not None]
    vq = [path for path in found if _is_vq(path)]
    if vq:
        return vq[0]
    if found:
        refuse(
            found[0],
            "file",
            "another kind of file",
            "a VQ checkpoint",
            "load it with UNETLoader or CheckpointLoaderSimple, or choose another file",
        )
    folders = " or ".join(f"models/{folder}" for folder in FOLDERS)
    refuse(name, "file", "no such file", f"one in {folders}", "put it there, or choose another")


def fingerprint(path: str) -> tuple[str, int, int]:
    """Changes when the file does."""
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size


def _is_vq(path: str | None) -> bool:
    if path is None or not path.lower().endswith(".safetensors"):
        return False
    try:
        return _sniffed(*fingerprint(path))
    except OSError:  # removed since it was listed
        return False


@lru_cache(maxsize=4096)
def _sniffed(path: str, _modified: int, _size: int) -> bool:
    return checkpoint.is_vq(path)
