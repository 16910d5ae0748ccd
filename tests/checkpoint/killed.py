"""Kills a process again and again while it saves over a file, and looks at what is there.

    python -m tests.checkpoint.killed FOLDER [COUNT]

Processes are forked, so that each need not import everything anew.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from itertools import cycle
from pathlib import Path

import torch

from comfy_vq import checkpoint
from comfy_vq.codecs import VQWeight
from comfy_vq.codecs.int8 import Int8Spec
from comfy_vq.model import VQModel


def model(code: int) -> VQModel:
    """2 MiB in which all codes are the same, so that a mixture of two models would show."""
    shape = (2048, 1024)
    pieces = {
        "codes": torch.full(shape, code, dtype=torch.int8),
        "scales": torch.full(shape[:1], float(code)).half(),
    }
    return VQModel({"layer": VQWeight(Int8Spec(), shape, torch.float16, pieces)}, {})


def main(folder: Path, count: int) -> None:
    path, rng = folder / "a.safetensors", random.Random(0)
    models = [model(1), model(2)]
    contents, seconds, half = set(), 0.0, 0
    for each in models:
        started = time.monotonic()
        checkpoint.save(path, each)
        seconds = min(0.1, time.monotonic() - started)
        contents.add(path.read_bytes())
    for _ in range(count):
        child = os.fork()
        if child == 0:
            for each in cycle(models):
                checkpoint.save(path, each)
        time.sleep(rng.uniform(0, 4 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = [name for name in os.listdir(folder) if name != path.name]
        assert len(left) <= 1, left
        loaded = checkpoint.load(path)
        assert loaded.layers["layer"].decode().shape == (2048, 1024)
        assert path.read_bytes() in contents, "neither of the two models"
        del loaded
        if left:
            half += 1
            checkpoint.save(path, models[0])
            assert os.listdir(folder) == [path.name], "what was left is there still"
    print(f"{count} kills, of which {half} left half a file beside the whole one")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 50)
