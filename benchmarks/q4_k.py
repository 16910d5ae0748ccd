"""Dequantizing GGUF's Q4_K in eager PyTorch, as ComfyUI-GGUF does it: the peer in speed.

A block of 256 weights takes 144 bytes: float16 scale d and minimum m of the block; 6-bit scales
and minima of its 8 sub-blocks, packed into 12 bytes; 128 bytes of 4-bit values. Byte i of the
j-th 32 bytes holds values i of sub-blocks 2j (low) and 2j + 1 (high).
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHTS = 256
BYTES = 144


def dequantize(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights ``d * scale * value - m * minimum``, computed in ``dtype``.

    Args:
        blocks: uint8 ``[n, 144]``.

    Returns:
        ``[n, 256]`` of ``dtype``.
    """
    count = blocks.shape[0]
    halves = blocks[:, :4].contiguous().view(torch.float16).to(dtype)
    scales, minima = _sub_blocks(blocks[:, 4:16])
    scales = (halves[:, :1] * scales).unsqueeze(-1)
    minima = (halves[:, 1:] * minima).unsqueeze(-1)
    shifts = torch.tensor([0, 4], dtype=torch.uint8, device=blocks.device).view(1, 1, 2, 1)
    values = (blocks[:, 16:].reshape(count, 4, 1, 32) >> shifts) & 15
    return (scales * values.reshape(count, 8, 32) - minima).reshape(count, WEIGHTS)


def _sub_blocks(packed: Tensor) -> tuple[Tensor, Tensor]:
    """6-bit scales and minima, uint8 ``[n, 8]`` each, from ``[n, 12]``.

    Of the first four, byte i has the scale and byte 4 + i the minimum. Of the others, byte 8 + i
    has the low four bits of both, and the top two bits of the first eight bytes the rest.
    """
    first, second, low = packed.split(4, dim=1)
    scales = torch.cat((first & 63, (low & 15) | ((first >> 2) & 48)), dim=1)
    minima = torch.cat((second & 63, (low >> 4) | ((second >> 2) & 48)), dim=1)
    return scales, minima


def random_blocks(weights: int, device: torch.device, seed: int = 0) -> Tensor:
    """Blocks of ``weights`` weights, a multiple of 256, with finite scales; else random bytes."""
    generator = torch.Generator().manual_seed(seed)
    shape = (weights // WEIGHTS, BYTES)
    blocks = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    scales = torch.rand((shape[0], 2), generator=generator) * 1e-3
    blocks[:, :4] = scales.half().view(torch.uint8)
    return blocks.to(device)
