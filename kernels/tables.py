"""What is known of a codebook set, found out once."""

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .scratch import is_capturing

_KNOWN: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def sums_are_bytes(codebooks: Tensor) -> bool:
    """Whether the largest entries of ``codebooks [M, 256, 8]`` sum to at most 255.

    Read from the device at the first call; if that is while a CUDA graph is captured, which allows
    no reading, the answer is no.
    """
    if codebooks not in _KNOWN:
        if is_capturing(codebooks.device):
            return False
        _KNOWN[codebooks] = int(codebooks.amax((1, 2)).sum()) <= 255
    return _KNOWN[codebooks]
