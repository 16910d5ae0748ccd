"""VQ checkpoints on disk, and the dense checkpoints that they are made from.

The format is described in ``docs/format.md``.

>>> from comfy_vq import checkpoint
>>> checkpoint.save("model-VQ3.safetensors", model)
>>> model = checkpoint.load("model-VQ3.safetensors")
"""

from .dense import DenseCheckpoint, open_dense
from .reader import Header, inspect, is_vq, load
from .serialize import Stored
from .writer import save, write_decoded, write_dense

__all__ = [
    "DenseCheckpoint",
    "Header",
    "Stored",
    "inspect",
    "is_vq",
    "load",
    "open_dense",
    "save",
    "write_decoded",
    "write_dense",
]
