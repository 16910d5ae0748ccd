"""Randomized block-Hadamard rotation along the input dimension of a weight.

With D = diag(signs) and H the Sylvester Hadamard matrix of order ``block`` repeated along the
diagonal, the rotation is ``x -> x D H / sqrt(block)``. It is orthonormal, so errors keep their
size, and it makes the entries of a weight nearly Gaussian (QuIP#, arXiv 2402.04396, section 3).
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotation:
    """Which rotation a weight was coded under.

    Attributes:
        block: order of the Hadamard matrix, a power of two that divides the input width.
        seed: seed of the signs, 0 <= seed < 2**64.
    """

    block: int
    seed: int


@lru_cache(maxsize=256)
def sign_bytes(seed: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The signs of a rotation as bits: uint8 ``[ceil(width / 8)]``, SHAKE-128 over the seed.

    The seed is hashed as eight little-endian bytes. Bit ``i % 8`` (least significant first) of
    byte ``i // 8`` belongs to column i; a set bit means -1.
    """
    stream = hashlib.shake_128(seed.to_bytes(8, "little")).digest((width + 7) // 8)
    return torch.frombuffer(bytearray(stream), dtype=torch.uint8).to(device)


@lru_cache(maxsize=256)
def sign_vector(seed: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The signs of a rotation: float32 ``[width]`` of +1 and -1, see ``sign_bytes``.

    A shorter width is a prefix of a longer.
    """
    bits = sign_bytes(seed, width)
    bits = (bits[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return (1.0 - 2.0 * bits.flatten()[:width].float()).to(device)


@lru_cache(maxsize=16)
def hadamard_matrix(order: int, device: torch.device | str = "cpu") -> Tensor:
    """Sylvester's Hadamard matrix, float32 ``[order, order]`` of +1 and -1.

    Raises:
        ValueError: ``order`` is not a power of two.
    """
    if order < 1 or order & (order - 1):
        raise ValueError(f"a Hadamard rotation needs a power of two, not a block of {order}")
    with torch.inference_mode(False):  # it is used in and out of that mode
        matrix = torch.ones(1, 1)
        while matrix.shape[0] < order:
            matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)), 0)
        return matrix.to(device)


@lru_cache(maxsize=16)
def hadamard_bytes(order: int, device: torch.device | str = "cpu") -> Tensor:
    """``hadamard_matrix`` in int8."""
    with torch.inference_mode(False):
        return hadamard_matrix(order, device).to(torch.int8)


def block_hadamard(x: Tensor, block: int) -> Tensor:
    """``x H``, unnormalized, float32 of x's shape ``[..., width]``.

    Exact for integer-valued x below 2**24 / block in magnitude, even where matrix products run
    in TF32, because the factors are small integers.
    """
    return (x.reshape(-1, block) @ hadamard_matrix(block, x.device)).reshape(x.shape)


def rotate(x: Tensor, rotation: Rotation, period: int) -> Tensor:
    """Rotate float32 ``x [..., width]``; the signs repeat every ``period`` (the input width)."""
    signed = x.reshape(-1, period) * sign_vector(rotation.seed, period, x.device)
    return block_hadamard(signed, rotation.block).reshape(x.shape) * rotation.block**-0.5


def unrotate(x: Tensor, rotation: Rotation, period: int) -> Tensor:
    """The inverse of ``rotate``."""
    return unrotate_unnormalized(x, rotation, period) * rotation.block**-0.5


def unrotate_unnormalized(x: Tensor, rotation: Rotation, period: int) -> Tensor:
    """``x H D``: the inverse rotation without its factor ``block**-0.5``, exact on integers."""
    signs = sign_vector(rotation.seed, period, x.device)
    return block_hadamard(x, rotation.block).reshape(-1, period).mul_(signs).reshape(x.shape)
