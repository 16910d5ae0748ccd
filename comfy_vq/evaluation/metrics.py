"""How far a candidate is from its reference."""

import math

import torch
from torch import Tensor

_SSIM_WINDOW = 11  # Gaussian, sigma 1.5: Wang et al. 2004, section III.B


def _power(x: Tensor) -> float:
    return float(x.detach().double().square().sum())


def sqnr_db(reference: Tensor, candidate: Tensor) -> float:
    """Signal to quantization noise, ``10 log10(sum ref^2 / sum (ref - cand)^2)`` in dB.

    Infinite for equal tensors; both may have any one shape and any dtypes.
    """
    noise = _power(reference.double() - candidate.double())
    return math.inf if noise == 0 else 10 * math.log10(_power(reference) / noise)


def relative_l2(reference: Tensor, candidate: Tensor) -> float:
    """``||ref - cand|| / ||ref||``."""
    return math.sqrt(_power(reference.double() - candidate.double()) / _power(reference))


def cosine(reference: Tensor, candidate: Tensor) -> float:
    """``<ref, cand> / (||ref|| ||cand||)``, each tensor taken as one vector."""
    product = float((reference.double() * candidate.double()).sum())
    return product / math.sqrt(_power(reference) * _power(candidate))


def psnr_db(reference: Tensor, candidate: Tensor, peak: float | None = None) -> float:
    """Peak signal to noise in dB, ``20 log10(peak) - 10 log10(mean (ref - cand)^2)``.

    Args:
        peak: 1.0 for pictures in 0..1; by default the range of the reference, as is usual for
            latents.
    """
    if peak is None:
        peak = float(torch.max(reference) - torch.min(reference))
    noise = _power(reference.double() - candidate.double()) / reference.numel()
    return math.inf if noise == 0 else 20 * math.log10(peak) - 10 * math.log10(noise)


def ssim(reference: Tensor, candidate: Tensor) -> Tensor:
    """Structural similarity of each picture, its mean over pixels and colours.

    Args:
        reference, candidate: float32 ``[n, h, w, 3]`` in 0..1.

    Returns:
        ``[n]``, 1 for equal pictures.
    """
    import kornia.metrics  # takes a second, and most of the package never needs it

    first, second = (x.movedim(-1, 1).contiguous() for x in (reference, candidate))
    return kornia.metrics.ssim(first, second, _SSIM_WINDOW).mean((1, 2, 3))
