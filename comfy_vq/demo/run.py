"""The demo: quantize the shipped model, and measure each file against the dense model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import VQError
from ..evaluation.bench import Bench
from ..evaluation.report import Report, to_table
from ..evaluation.run import Named, Say, check_packages, evaluate
from ..hosts.locate import find_comfyui
from . import task
from .model_files import NAME, ModelFiles
from .scenes import Scene

BITS = (4.0, 3.0, 2.2)

Quantize = Callable[[Path, Path, float], None]
"""Makes a VQ file of a dense one, at an average number of bits per weight."""


def choose_bench(host: str, files: ModelFiles, subjects: Sequence[Scene]) -> Bench:
    """The host to sample these scenes through.

    Args:
        host: "comfyui", "diffusers", or "auto" for ComfyUI where one is found.

    Raises:
        VQError: ComfyUI is asked for and not found, or the host does not import here.
    """
    captions = [scene.caption for scene in subjects]
    comfyui = None if host == "diffusers" else find_comfyui()
    if comfyui is not None:
        from .with_comfyui import comfyui_bench

        try:
            return comfyui_bench(comfyui, files.autoencoder, captions)
        except VQError as error:
            raise VQError(f"{error}; or choose --host diffusers") from error
    if host == "comfyui":
        raise VQError(
            "no ComfyUI was found; name its folder in the environment variable COMFYUI_PATH, or "
            "choose --host diffusers"
        )
    try:
        from .with_diffusers import DiffusersBench
    except ImportError as error:
        raise VQError(
            f"no ComfyUI was found, and diffusers does not import here ({error}); install it with "
            "'pip install diffusers', or run 'make demo', which makes its own environment"
        ) from None
    return DiffusersBench(files.autoencoder, captions)


def run(
    out: Path,
    files: ModelFiles,
    bench: Bench,
    subjects: Sequence[Scene],
    quantize: Quantize,
    say: Say = print,
) -> Report:
    """Write the VQ files and the ruler's report into a folder.

    Args:
        out: created if it is not there; files of an earlier run are replaced.
        bench: of these subjects, in their order.
        say: where the progress of the demo is told.

    Raises:
        VQError: a package is missing, the folder cannot be made, or what the files' own readers and writers raise.
    """
    check_packages()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VQError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error
    candidates = []
    for bits in BITS:
        path = out / f"{NAME}-VQ{bits:g}.safetensors"
        started = time.monotonic()
        quantize(files.unet, path, bits)
        extra = {"quantize s": time.monotonic() - started}
        candidates.append(Named(f"VQ{bits:g}", path, bench.size(path), extra))
    say(
        f"sampling through {bench.name}: {len(subjects)} prompts, {task.STEPS} steps, "
        f"{task.GUIDANCE:g} cfg"
    )
    report = evaluate(
        bench,
        Named("dense", files.unet, bench.size(files.unet)),
        candidates,
        out,
        judge=lambda pictures: task.judge(pictures, subjects),
        floor=True,
        say=say,
    )
    say(f"\n{to_table(report)}\n\nsampled through {bench.name}; all files are in {out}")
    return report
