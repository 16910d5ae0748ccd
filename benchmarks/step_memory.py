"""Memory of this process and of its graphics card, while a step runs and after."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.sdxl_load import memory


def reset_peaks(device: torch.device) -> None:
    """Forget the largest sizes so far."""
    _trim()
    # The largest resident set counts anew; where a sandbox has no such file, from the start.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peaks(device: torch.device, empty: int) -> dict[str, Any]:
    """The largest sizes since, in bytes: resident beyond ``empty``, and allocated by torch on a card."""
    allocated = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak": largest() - empty, "device_peak": allocated}


def largest() -> int:
    """The largest resident set so far, in bytes."""
    unit = 1024  # Linux's; nothing else here runs elsewhere
    return memory().get("VmHWM", unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def idle(device: torch.device, empty: int, before: int) -> dict[str, Any]:
    """What is still held when a step is over: weights, as they are, and buffers that stay."""
    _trim()
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    return {
        "resident": memory()["VmRSS"] - empty,
        "device_resident": held,
        "device_used": on_device(device) - before if device.type == "cuda" else None,
    }


def on_device(device: torch.device) -> int:
    """Bytes in use on the card by anyone, torch's allocator or not."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _trim() -> None:
    """Give back what Python and the C library keep for later."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
