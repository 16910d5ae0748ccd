"""The memory that weights are decoded into, one buffer for each device and stream.

A decoded weight lives until the next one: a layer multiplies with it and forgets it.
"""

import threading

import torch
from torch import Tensor

LIMIT = 64 << 20
"""Bytes of the buffer at most; larger weights are decoded and multiplied in slices of rows."""


class _Buffers(threading.local):
    """One set for each thread, so that two that sample at once never share a buffer."""

    def __init__(self) -> None:
        self.known: dict[tuple[torch.device, int], Tensor] = {}


_BUFFERS = _Buffers()


def scratch(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A matrix ``[rows, columns]`` of ``dtype``, whose contents last until the next call.

    The next call on the same device and stream, that is. The buffer is as large as what was asked
    for so far; more than ``LIMIT`` bytes are not from it but the caller's own.
    """
    nbytes = rows * columns * dtype.itemsize
    if nbytes > LIMIT or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        # A graph brings memory of its own, to which nothing else may write between its replays.
        return torch.empty((rows, columns), dtype=dtype, device=device)
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    buffer = _BUFFERS.known.get((device, stream))
    if buffer is None or buffer.numel() < nbytes:
        _BUFFERS.known.pop((device, stream), None)
        with torch.inference_mode(False):
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=device)
        _BUFFERS.known[device, stream] = buffer
    return buffer[:nbytes].view(dtype).view(rows, columns)


def release() -> None:
    """Give back this thread's buffers."""
    _BUFFERS.known.clear()
