"""Work on rows of a weight in several threads, with the same result for any number of them.

Torch splits each operation among threads, which for the encoder's many short ones costs much of what
it gains, and sums may come out differently for another number of threads. Here a slab of rows is
one thread's alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")


def map_slabs(function: Callable[[Tensor], _T], slabs: Sequence[Tensor]) -> Iterator[_T]:
    """``function`` of every slab, in order, computed by as many threads as torch uses on a CPU.

    What the caller does between two results may raise; then at most the slabs in work are computed
    in vain. On other devices, which have their own parallelism, one slab follows the other.
    """
    threads = torch.get_num_threads()
    if not slabs or slabs[0].device.type != "cpu" or threads == 1:
        yield from map(function, slabs)
        return
    pool, ahead = _pool(threads), deque[Future[_T]]()
    try:
        for slab in slabs:
            ahead.append(pool.submit(_alone, function, slab))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch's operations in this thread use no other one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads in which torch's operations use no other thread.

    Torch remembers the number for each thread that has asked for it, and for all to come: these
    set it for themselves, and then it is put back for those that are started later.
    """
    started = Barrier(threads + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first use takes over what was set last, wherever
        started.wait()

    pool = ThreadPoolExecutor(threads, "comfy-vq", start)
    for _ in range(threads):
        pool.submit(int)
    started.wait()
    torch.set_num_threads(threads)
    return pool


def _alone(function: Callable[[Tensor], _T], slab: Tensor) -> _T:
    with torch.no_grad():
        return function(slab)
