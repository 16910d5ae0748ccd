"""The demo: quantize the shipped model, sample from each file, compare with the dense model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from .. import checkpoint
from ..errors import VQError
from ..evaluation import psnr_db, sqnr_db
from ..hosts.locate import find_comfyui
from . import conditioning, measure, scenes, table
from .grid import draw_grid
from .measure import Probe, alignment, make_probe, predictions
from .model_files import NAME, ModelFiles
from .sampler import GUIDANCE, STEPS, Sampler

BITS = (4.0, 3.0, 2.2)
_GRID_ROWS = 8
_PROBES = 16
_SEED = 1
_T = TypeVar("_T")

Quantize = Callable[[Path, Path, float], None]
"""Makes a VQ file of a dense one, at an average number of bits per weight."""


@dataclass(frozen=True)
class _Sampled:
    """What one model gave: latents and pictures of all prompts, predicted noise of all probes."""

    latents: Tensor
    pictures: Tensor
    predicted: Tensor
    seconds: float


def choose_sampler(host: str, files: ModelFiles) -> Sampler:
    """The host to sample through.

    Args:
        host: "comfyui", "diffusers", or "auto" for ComfyUI where one is found.

    Raises:
        VQError: ComfyUI is asked for and not found, or the host does not import here.
    """
    comfyui = None if host == "diffusers" else find_comfyui()
    if comfyui is not None:
        from .with_comfyui import ComfyUISampler

        try:
            return ComfyUISampler(comfyui, files.autoencoder)
        except VQError as error:
            raise VQError(f"{error}; or choose --host diffusers") from error
    if host == "comfyui":
        raise VQError(
            "no ComfyUI was found; name its folder in the environment variable COMFYUI_PATH, or "
            "choose --host diffusers"
        )
    try:
        from .with_diffusers import DiffusersSampler
    except ImportError as error:
        raise VQError(
            f"no ComfyUI was found, and diffusers does not import here ({error}); install it with "
            "'pip install diffusers', or run 'make demo', which makes its own environment"
        ) from None
    return DiffusersSampler(files.autoencoder)


def run(
    out: Path,
    files: ModelFiles,
    sampler: Sampler,
    quantize: Quantize,
    pictures: int,
    say: Callable[[str], None] = print,
) -> list[table.Row]:
    """Write the VQ files, `grid.png`, `table.md` and `table.json` into a folder.

    Args:
        out: created if it is not there; files of an earlier run are replaced.
        pictures: how many prompts, all held out of training, to sample from each model.
        say: where the progress of the demo is told.

    Raises:
        VQError: the folder cannot be made, or what the files' own readers and writers raise.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VQError(f"{out}: cannot be made a folder ({error.strerror}); name another") from error
    subjects = _spread(scenes.held_out(), pictures)
    probe = make_probe(sampler, _spread(scenes.held_out(), _PROBES))
    say(
        f"sampling through {sampler.name}: {len(subjects)} prompts, {STEPS} steps, {GUIDANCE:g} cfg"
    )
    dense = _sample(sampler, files.unet, subjects, probe)
    rows = [_dense_row(files.unet, dense, subjects)]
    columns = {"dense": dense.pictures}
    for bits in BITS:
        path = out / f"{NAME}-VQ{bits:g}.safetensors"
        started = time.monotonic()
        quantize(files.unet, path, bits)
        seconds = time.monotonic() - started
        sampled = _sample(sampler, path, subjects, probe)
        rows.append(_row(f"VQ{bits:g}", path, sampled, dense, subjects, seconds))
        columns[f"{bits:g} bits"] = sampled.pictures
    captions = [scene.caption for scene in subjects]
    shown = _spread(range(len(captions)), _GRID_ROWS)
    shown_columns = {heading: pictures[shown] for heading, pictures in columns.items()}
    draw_grid([captions[i] for i in shown], shown_columns).save(out / "grid.png")
    about = {"host": sampler.name, "torch": torch.__version__, "seed": _SEED, "captions": captions}
    text = table.to_text(rows)
    (out / "table.md").write_text(text + "\n", encoding="utf-8")
    (out / "table.json").write_text(json.dumps(table.to_json(rows, about), indent=1) + "\n")
    say(f"\n{text}\n\nsampled through {sampler.name}; all files are in {out}")
    return rows


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Up to `count` of the items at equal distances, so that all kinds are among them."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _sample(
    sampler: Sampler, path: Path, subjects: Sequence[scenes.Scene], probe: Probe
) -> _Sampled:
    model: Any = sampler.load(path)
    context = conditioning.embed([scene.caption for scene in subjects])
    started = time.monotonic()
    latents = sampler.sample(model, context, conditioning.embed([""]), _SEED)
    seconds = time.monotonic() - started
    predicted = predictions(sampler, model, probe)
    return _Sampled(latents, sampler.decode(latents), predicted, seconds)


def _dense_row(path: Path, dense: _Sampled, subjects: Sequence[scenes.Scene]) -> table.Row:
    source = checkpoint.open_dense(path)
    sizes = [
        (torch.Size(source.shape(key)).numel(), source.dtype(key)) for key in sorted(source.keys())
    ]
    stored = sum(numel * dtype.itemsize for numel, dtype in sizes)
    return table.Row(
        name="dense",
        bits=8 * stored / sum(numel for numel, _ in sizes),
        megabytes=path.stat().st_size / 1e6,
        alignment=alignment(dense.pictures, subjects),
        sample_seconds=dense.seconds,
    )


def _row(
    name: str,
    path: Path,
    sampled: _Sampled,
    dense: _Sampled,
    subjects: Sequence[scenes.Scene],
    quantize_seconds: float,
) -> table.Row:
    by_timestep = zip(dense.predicted, sampled.predicted, strict=True)
    return table.Row(
        name=name,
        bits=checkpoint.inspect(path).bits_per_weight,
        megabytes=path.stat().st_size / 1e6,
        alignment=measure.alignment(sampled.pictures, subjects),
        sample_seconds=sampled.seconds,
        noise_sqnr_db=sqnr_db(dense.predicted, sampled.predicted),
        noise_sqnr_by_timestep_db=tuple(sqnr_db(*pair) for pair in by_timestep),
        latent_psnr_db=psnr_db(dense.latents, sampled.latents),
        quantize_seconds=quantize_seconds,
    )
