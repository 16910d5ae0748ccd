"""Makes the real ComfyUI importable in this process, for the demo and for tests.

The extension itself never needs this: ComfyUI is already running when it loads the extension.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import VQError
from .locate import is_comfyui

_booted: Path | None = None


def boot(
    path: Path,
    cpu: bool | None = None,
    *,
    base_directory: Path | None = None,
    options: Sequence[str] = (),
) -> None:
    """After this, ``import comfy.sd``, ``import nodes`` and the rest of ComfyUI work.

    ComfyUI reads its options from ``sys.argv`` when it is first imported and finds its modules by
    their top-level names, so both are set for it: once per process, and only here.

    Args:
        path: the folder that ComfyUI's ``main.py`` is in.
        cpu: run without an accelerator; None means that it does so where torch sees none.
        base_directory: where models, input and output live; None means in ``path``.
        options: further ComfyUI command line options.

    Raises:
        VQError: the folder is no ComfyUI; another one runs in this process already; or this
            environment lacks something that ComfyUI requires.
    """
    global _booted
    path = path.absolute()
    if _booted == path:
        return
    if _booted is not None:
        raise VQError(f"{path}: this process already runs the ComfyUI in {_booted}; start another")
    if not is_comfyui(path):
        raise VQError(f"{path}: this folder holds no ComfyUI; name the folder that main.py is in")

    arguments = list(options)
    if cpu or (cpu is None and not _has_accelerator()):
        arguments.append("--cpu")
    if base_directory is not None:
        arguments += ["--base-directory", str(base_directory)]

    sys.path.insert(0, str(path))
    argv, sys.argv = sys.argv, [str(path / "main.py"), *arguments]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        # Before nodes: another package called utils may be importable, and the first one stays.
        import utils.extra_config  # noqa: F401
        import nodes  # noqa: F401  # isort: skip
    except ImportError as error:
        raise VQError(
            f"{path}: ComfyUI does not import in {sys.executable}: {error}; "
            f"install its requirements.txt into this environment"
        ) from error
    finally:
        sys.argv = argv
    _booted = path


def _has_accelerator() -> bool:
    """Whether torch sees a device that ComfyUI would choose by itself."""
    xpu = getattr(torch, "xpu", None)
    return (
        torch.cuda.is_available()
        or torch.backends.mps.is_available()
        or (xpu is not None and xpu.is_available())
    )
