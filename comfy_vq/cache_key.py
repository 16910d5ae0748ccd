"""What decides a quantization, as a hash.

The weights count as the quantizer reads them, patches applied, so that a key is right even after
merges and changes in place. Which device does the work is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from . import __version__
from .checkpoint.fields import VERSION
from .codecs.encoder import REVISION
from .model import Source
from .plan import Plan
from .quantize import WeightSource

_THREADS = 4


def key_of(
    weights: WeightSource,
    plan: Plan,
    *,
    effort: str,
    exclude: Sequence[str] = (),
    seed: int = 0,
    calibration: str | None = None,
    on_tensor: Callable[[str], None] = lambda key: None,
) -> str:
    """The key of a quantization, in hex. Reads all weights once.

    Args:
        calibration: what tells it and how it is used from others; None without one.
        on_tensor: called with the name of each tensor before it is read; may raise.
    """
    choices = {name: str(choice) for name, choice in plan.choices.items()}
    how = {
        "version": __version__,
        "format": VERSION,
        "encoders": REVISION,
        "plan": plan.summary(),
        "choices": choices,
        "effort": effort,
        "exclude": sorted(exclude),
        "seed": seed,
        **({} if calibration is None else {"calibration": calibration}),
        "source": _described(weights.source),
        "tensors": _hashes(weights, on_tensor),
    }
    return hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()


def _described(source: Source) -> dict[str, object]:
    root = {name: _described_tensor(t) + [_digest(_bytes(t))] for name, t in source.root.items()}
    return {
        "name": source.name,
        "sha256": source.sha256,
        "prefix": source.prefix,
        "metadata": source.metadata,
        "root": root,
    }


def _hashes(weights: WeightSource, on_tensor: Callable[[str], None]) -> dict[str, object]:
    """Dtype, shape and hash by key. Weights are read here and hashed in threads, a few at a time."""
    found: dict[str, object] = {}
    ahead: deque[tuple[str, list[object], Future[str]]] = deque()

    def settle() -> None:
        key, described, digest = ahead.popleft()
        found[key] = [*described, digest.result()]

    with ThreadPoolExecutor(_THREADS, "comfy-vq-hash") as pool:
        for key in weights.keys():  # noqa: SIM118 - not a mapping
            on_tensor(key)
            tensor = weights.read(key)
            ahead.append((key, _described_tensor(tensor), pool.submit(_digest, _bytes(tensor))))
            if len(ahead) > _THREADS:
                settle()
        while ahead:
            settle()
    return found


def _described_tensor(tensor: Tensor) -> list[object]:
    return [str(tensor.dtype), list(tensor.shape)]


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())


def _digest(data: memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
