"""What ComfyUI stores by itself: fp8 as it casts, scaled fp8, int8, mxfp8 and nvfp4."""

from __future__ import annotations

import torch
from torch import Tensor

_FP8 = torch.float8_e4m3fn


def fp8(matrix: Tensor) -> tuple[Tensor, int]:
    """A plain cast, as UNETLoader's ``fp8_e4m3fn`` does to every tensor."""
    stored = matrix.to(_FP8)
    return stored.float(), stored.nbytes


def fp8_scaled(matrix: Tensor) -> tuple[Tensor, int]:
    """With one float32 scale that brings the largest magnitude to the largest number."""
    scale = matrix.abs().max() / torch.finfo(_FP8).max
    stored = (matrix / scale).to(_FP8)
    return stored.float() * scale, stored.nbytes + scale.nbytes


def int8_rows(matrix: Tensor) -> tuple[Tensor, int]:
    """Signed bytes with a float32 scale for each row, rounded to nearest."""
    scales = matrix.abs().amax(1, keepdim=True) / 127
    stored = (matrix / scales).round().clamp(-127, 127).to(torch.int8)
    return stored.float() * scales, stored.nbytes + scales.nbytes


def kitchen(layout: str):
    """A layout of comfy-kitchen, by its name; needs that package, which comes with ComfyUI.

    Bytes are those of the tensors that ComfyUI writes for it, the padding of its scales included.
    """

    def coder(matrix: Tensor) -> tuple[Tensor, int]:
        from comfy_kitchen import tensor as layouts

        chosen = getattr(layouts, layout)
        stored, params = chosen.quantize(matrix)
        tensors = chosen.state_dict_tensors(stored, params).values()
        decoded = chosen.dequantize(stored, params)[: matrix.shape[0], : matrix.shape[1]]
        return decoded, sum(tensor.nbytes for tensor in tensors)

    return coder
