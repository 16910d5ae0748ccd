"""GGUF files of models, written by the format's own package."""

from __future__ import annotations

from pathlib import Path

import gguf
from torch import Tensor


def write_gguf(path: Path, weights: dict[str, Tensor], kind: gguf.GGMLQuantizationType) -> None:
    """As tools for ComfyUI write them: weights coded, and folded to matrices; the rest float32."""
    writer = gguf.GGUFWriter(path, "test")
    for key, tensor in weights.items():
        array, chosen = tensor.numpy(), gguf.GGMLQuantizationType.F32
        if array.ndim > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{key}", tuple(array.shape))
            array = array.reshape(array.shape[0], -1)
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            chosen = kind
        coded = gguf.quants.quantize(array, chosen)
        writer.add_tensor(key, coded, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
