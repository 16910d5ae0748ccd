"""How benchmarks time what they compare, and say what they ran on."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

_SLEEP_CYCLES = 1_000_000
"""What a card waits before each timed call, so that the processor has queued the whole call by then."""
_CACHE_BYTES = 64 << 20
"""Of a card that does not say how large its cache is."""


class Timer:
    """Medians of seconds on one device.

    On a graphics card: between two events, with the weights evicted from its cache before every
    call. The card sleeps before the first event until the processor has queued the call, so the
    time is the card's alone; ``host_seconds`` measures the processor's. On a CPU: the clock.
    """

    def __init__(self, device: torch.device, repeats: int = 20) -> None:
        self.device = device
        self.repeats = repeats
        self._cache: torch.Tensor | None = None
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            size = 4 * max(getattr(properties, "L2_cache_size", 0), _CACHE_BYTES)
            self._cache = torch.zeros(size // 4, dtype=torch.int32, device=device)

    def seconds(self, call: Callable[[], object]) -> float:
        """Median time of one call."""
        for _ in range(3 if self._cache is not None else 1):
            call()
        if self._cache is None:
            return statistics.median(_clocked(call) for _ in range(self.repeats))
        return statistics.median(self._evented(call) for _ in range(self.repeats))

    def host_seconds(self, call: Callable[[], object], calls: int = 100) -> float:
        """Median time in which the processor has issued one call, waiting for no result.

        The device is idle when a burst of ``calls`` begins, and its queue holds the whole burst.
        """

        def burst() -> None:
            for _ in range(calls):
                call()

        found = []
        for _ in range(self.repeats + 2):
            synchronize(self.device)
            found.append(_clocked(burst) / calls)
        synchronize(self.device)
        return statistics.median(found[2:])

    def copy_bandwidth(self, nbytes: int) -> float:
        """Bytes read and written per second by a copy of ``nbytes``."""
        source = torch.ones(nbytes, dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        return 2 * nbytes / self.seconds(lambda: target.copy_(source))

    def _evented(self, call: Callable[[], object]) -> float:
        assert self._cache is not None
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._cache.sum()  # read, not written: dirty lines would be written back in the timed call
        torch.cuda._sleep(_SLEEP_CYCLES)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000


def _clocked(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def where(device: torch.device) -> str:
    """One line: the device, versions, date and command, for the head of a table."""
    triton = "none"
    try:
        import triton as installed

        triton = installed.__version__
    except ImportError:
        pass
    stated = f"torch {torch.__version__}, Triton {triton}, Python {platform.python_version()}"
    if device.type == "cuda":
        stated += f", driver {_driver()}"
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return f"{device_name(device)}, {stated}, {date}\n\n    {command()}\n"


def command() -> str:
    """How this script was called, as ``python -m``."""
    return shlex.join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor()
    return f"{name}, {threads}"


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0].strip()


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
