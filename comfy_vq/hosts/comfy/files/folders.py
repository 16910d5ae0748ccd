"""Where VQ files lie, and what each of them holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import folder_paths

from .... import checkpoint
from ....calibration.file import is_calibration
from ....checkpoint.refusal import refuse


@dataclass(frozen=True)
class Kind:
    """VQ files that a node loads.

    Attributes:
        folders: of the host, in which they are looked for.
        parts: what they must hold; see ``checkpoint.contents``.
        others: what loads files of other kinds from these folders.
    """

    folders: tuple[str, ...]
    parts: tuple[str, ...]
    others: str


MODELS = Kind(
    ("diffusion_models", "vq", "checkpoints"),
    (checkpoint.MODEL,),
    "UNETLoader or CheckpointLoaderSimple",
)
ENCODERS = Kind(
    ("text_encoders", "vq", "checkpoints"), (checkpoint.CLIP,), "CLIPLoader or DualCLIPLoader"
)
FULL = Kind(
    ("checkpoints", "vq", "diffusion_models"),
    (checkpoint.MODEL, checkpoint.CLIP, checkpoint.VAE),
    "Load VQ Checkpoint or CheckpointLoaderSimple",
)


CALIBRATIONS = "vq_calibrations"
"""The folder of calibrations, below the host's models and below its output."""


def register() -> None:
    """Make ``models/vq`` and ``models/vq_calibrations`` known to the host, beside folders that the
    user has mapped to these names.

    Of the folders that our nodes save to, the host knows only those of models and checkpoints.
    """
    output = folder_paths.get_output_directory()
    for root in (folder_paths.models_dir, output):
        folder_paths.add_model_folder_path(CALIBRATIONS, os.path.join(root, CALIBRATIONS))
    folder_paths.folder_names_and_paths[CALIBRATIONS][1].add(".safetensors")
    folder_paths.add_model_folder_path("vq", os.path.join(folder_paths.models_dir, "vq"))
    folder_paths.add_model_folder_path("vq", os.path.join(output, "text_encoders"))
    folder_paths.folder_names_and_paths["vq"][1].add(".safetensors")


def vq_files(kind: Kind = MODELS) -> list[str]:
    """Names of all VQ files of a kind, relative to the folder that each lies in."""
    names = {
        name
        for folder in kind.folders
        for name in folder_paths.get_filename_list(folder)
        if _is_of(kind, folder_paths.get_full_path(folder, name))
    }
    return sorted(names)


def path_of(name: str, kind: Kind = MODELS) -> str:
    """The VQ file of a name.

    Raises:
        VQError: there is no such file in the folders, or only one of another kind.
    """
    paths = [folder_paths.get_full_path(folder, name) for folder in kind.folders]
    found = [path for path in paths if path is not None]
    fitting = [path for path in found if _is_of(kind, path)]
    if fitting:
        return fitting[0]
    wanted = "a VQ checkpoint" if kind is MODELS else f"a VQ file of {', '.join(kind.parts)}"
    if found:
        advice = f"load it with {kind.others}, or choose another file"
        refuse(found[0], "file", "another kind of file", wanted, advice)
    folders = " or ".join(f"models/{folder}" for folder in kind.folders)
    refuse(name, "file", "no such file", f"one in {folders}", "put it there, or choose another")


def calibration_files() -> list[str]:
    """Names of all calibrations, relative to the folder that each lies in."""
    names = folder_paths.get_filename_list(CALIBRATIONS)
    return [n for n in names if is_calibration(folder_paths.get_full_path(CALIBRATIONS, n) or "")]


def calibration_path(name: str) -> str:
    """The file of a name. Raises VQError if there is none in the folders."""
    path = folder_paths.get_full_path(CALIBRATIONS, name)
    if path is None:
        expected = f"one in models/{CALIBRATIONS} or output/{CALIBRATIONS}"
        refuse(name, "file", "no such file", expected, "put it there, or choose another")
    return path


def fingerprint(path: str) -> tuple[str, int, int]:
    """Changes when the file does."""
    status = os.stat(path)
    return path, status.st_mtime_ns, status.st_size


def _is_of(kind: Kind, path: str | None) -> bool:
    if path is None or not path.lower().endswith(".safetensors"):
        return False
    try:
        return set(kind.parts) <= set(_contents(*fingerprint(path)))
    except OSError:  # removed since it was listed
        return False


@lru_cache(maxsize=4096)
def _contents(path: str, _modified: int, _size: int) -> tuple[str, ...]:
    return checkpoint.contents(path)
