"""The memory that weights are decoded into, one buffer for each device and stream.

A decoded weight lives until the next one: a layer multiplies with it and forgets it.
"""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 48 << 20
"""Bytes of a buffer at most; larger weights are decoded and multiplied in slices of rows.

With the 16 MiB that decoding in plain PyTorch works in, that makes 64."""

_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
"""Torch's own short way to the current stream; what it compiles itself calls it, too."""


@dataclass(eq=False)
class Buffer:
    """Memory of one device and stream, and whose weights are in it.

    Attributes:
        memory: uint8 ``[bytes]``.
        owner: who filled it last, if it is to be asked for that.
    """

    memory: Tensor
    owner: object = None


class _Buffers(threading.local):
    """One set for each thread, so that two that sample at once never share a buffer."""

    def __init__(self) -> None:
        self.known: dict[tuple[torch.device, int], Buffer] = {}


_BUFFERS = _Buffers()


def scratch(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix ``[rows, columns]`` of ``dtype``, whose contents last until the next call.

    The next call on the same device and stream, that is. More than ``LIMIT`` bytes are not from
    the buffer but the caller's own.
    """
    nbytes = rows * columns * dtype.itemsize
    buffer = None if nbytes > LIMIT else reserve(nbytes, device)
    if buffer is None:
        return torch.empty((rows, columns), dtype=dtype, device=device)
    buffer.owner = None
    return buffer.memory[:nbytes].view(dtype).view(rows, columns)


def reserve(nbytes: int, device: torch.device) -> Buffer | None:
    """The buffer of a device's current stream, of at least ``nbytes``.

    None while a graph is captured: it brings memory of its own, to which nothing else may write
    between its replays.
    """
    if is_capturing(device):
        return None
    key = (device, _stream(device))
    buffer = _BUFFERS.known.pop(key, None)
    if buffer is None or buffer.memory.numel() < nbytes:
        buffer = None  # freed before the larger one is allocated
        with torch.inference_mode(False):
            buffer = Buffer(torch.empty(nbytes, dtype=torch.uint8, device=device))
    _BUFFERS.known[key] = buffer
    return buffer


def current(device: torch.device) -> Buffer | None:
    """The buffer of a device's current stream, if it has one."""
    return _BUFFERS.known.get((device, _stream(device)))


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, when nothing may be read back or tried."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def release() -> None:
    """Give back this thread's buffers."""
    _BUFFERS.known.clear()


def _stream(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    if _raw_stream is None or device.index is None:
        return torch.cuda.current_stream(device).cuda_stream
    return _raw_stream(device.index)
