"""What is measured of one candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .bench import Recording, Size
from .intervals import Interval, mean_interval, sqnr_interval
from .metrics import cosine, psnr_db, relative_l2, ssim

FLOOR = "bf16 floor"
"""Name of the reference with its weights rounded to bfloat16."""


@dataclass(frozen=True)
class NoiseFigures:
    """Of teacher-forced predictions: SQNR in dB over all recorded steps, and at each of them."""

    sqnr_db: Interval
    by_timestep_db: tuple[Interval, ...]


@dataclass(frozen=True)
class LatentFigures:
    """Of the final latents of the same seeds, means over prompts."""

    psnr_db: Interval
    relative_l2: Interval
    cosine: Interval


@dataclass(frozen=True)
class PictureFigures:
    """Of the decoded pictures of the same seeds, means over prompts."""

    psnr_db: Interval
    ssim: Interval


@dataclass(frozen=True)
class Figures:
    """One model against the reference, or the reference itself.

    Attributes:
        name: for people.
        size: as stored.
        sample_seconds: for all prompts; of the reference, while it was recorded; 0 for a model that
            was not sampled.
        noise, latents: None for the reference.
        pictures: None for the reference, and without an autoencoder.
        judged: shares (0..1) by what was judged; None without a judge.
        layer_nmse: of each layer's output on the reference's inputs, in the order of their use;
            empty for the reference, and where layers were not asked for.
        extra: what the caller knows besides, such as seconds of quantization, by heading.
    """

    name: str
    size: Size
    sample_seconds: float
    noise: NoiseFigures | None = None
    latents: LatentFigures | None = None
    pictures: PictureFigures | None = None
    judged: Mapping[str, float] | None = None
    layer_nmse: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)

    @property
    def megabytes(self) -> float:
        """In units of 10^6 bytes."""
        return self.size.nbytes / 1e6


def noise_figures(recording: Recording, predicted: Tensor) -> NoiseFigures:
    """Compare predictions of the shape of ``recording.noise``."""
    signal = _powers(recording.noise)
    noise = _powers(recording.noise - predicted)
    steps = zip(signal, noise, strict=True)
    return NoiseFigures(
        sqnr_interval(signal.sum(0), noise.sum(0)), tuple(sqnr_interval(*step) for step in steps)
    )


def latent_figures(reference: Tensor, candidate: Tensor) -> LatentFigures:
    """Compare latents ``[prompts, ...]``; the peak is the range of all of the reference's."""
    peak = float(reference.max() - reference.min())
    pairs = list(zip(reference, candidate, strict=True))
    return LatentFigures(
        mean_interval([psnr_db(a, b, peak) for a, b in pairs]),
        mean_interval([relative_l2(a, b) for a, b in pairs]),
        mean_interval([cosine(a, b) for a, b in pairs]),
    )


def picture_figures(reference: Tensor, candidate: Tensor) -> PictureFigures:
    """Compare pictures ``[prompts, h, w, 3]`` in 0..1."""
    pairs = list(zip(reference, candidate, strict=True))
    # One by one: the windows of many large pictures at once would take much memory.
    similar = [float(ssim(a[None], b[None])) for a, b in pairs]
    return PictureFigures(
        mean_interval([psnr_db(a, b, peak=1.0) for a, b in pairs]), mean_interval(similar)
    )


def _powers(x: Tensor) -> NDArray[np.float64]:
    """``[steps, prompts]``."""
    return x.double().flatten(2).square().sum(-1).numpy()
