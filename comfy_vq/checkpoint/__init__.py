"""VQ checkpoints on disk, and the dense checkpoints that they are made from.

The format is described in ``docs/format.md``.

>>> from comfy_vq import checkpoint
>>> checkpoint.save("model-VQ3.safetensors", model)
>>> model = checkpoint.load("model-VQ3.safetensors")
"""

from .contents import CLIP, MODEL, VAE, contents, is_vq
from .dense import DenseCheckpoint, open_dense
from .reader import Header, Part, inspect, load, load_component
from .serialize import Stored
from .writer import save, write_decoded, write_dense

__all__ = [
    "CLIP",
    "MODEL",
    "VAE",
    "DenseCheckpoint",
    "Header",
    "Part",
    "Stored",
    "contents",
    "inspect",
    "is_vq",
    "load",
    "load_component",
    "open_dense",
    "save",
    "write_decoded",
    "write_dense",
]
