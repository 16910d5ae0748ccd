"""The windows of bits by which trellis codes name entries."""

import torch
from torch import Tensor


def windows(codes: Tensor, length: int, every: int = 1) -> Tensor:
    """The window of each weight, or of every second, fourth, ...: int32 ``[rows, groups, 8 / every]``.

    Args:
        codes: uint8 ``[rows, groups, k]``; see ``coded.Trellis``.
        length: of a window, in bits, at most 17: it lies within three bytes.
        every: a divisor of 8.
    """
    rows, groups, bits = codes.shape
    stream = codes.reshape(rows, -1)
    ring = torch.cat((stream, stream[:, :2]), 1)
    words = ring[:, :-2].int()
    for later in (1, 2):
        words |= ring[:, later : later + stream.shape[1]].int() << 8 * later
    words = words.view(rows, groups, bits)
    found = words.new_empty((rows, groups, 8 // every))
    for n, bit in enumerate(range(0, 8 * bits, every * bits)):
        torch.bitwise_right_shift(words[..., bit // 8], bit % 8, out=found[..., n])
    return found.bitwise_and_((1 << length) - 1)
