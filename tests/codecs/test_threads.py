"""Slabs in several threads: in order, alone, and stopped where the caller stops."""

import threading

import pytest
import torch

from comfy_vq.codecs.threads import map_slabs, one_thread


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_results_come_in_order():
    slabs = torch.arange(50.0).split(1)
    assert [float(x) for x in map_slabs(lambda slab: slab * 2, slabs)] == [2 * i for i in range(50)]


def test_each_slab_is_one_threads_alone():
    together = threading.Barrier(3, timeout=30)

    def meet(_slab):
        together.wait()
        return torch.get_num_threads(), threading.current_thread().name

    found = list(map_slabs(meet, torch.zeros(6).split(1)))
    assert {threads for threads, _ in found} == {1}
    assert threading.current_thread().name not in {name for _, name in found}
    assert torch.get_num_threads() == 3


def test_a_caller_that_stops_leaves_the_rest_undone():
    done = []
    slabs = torch.arange(100).split(1)
    with pytest.raises(InterruptedError):
        for _ in map_slabs(lambda slab: done.append(int(slab)), slabs):
            raise InterruptedError
    assert len(done) <= 8


def test_errors_reach_the_caller():
    def fail(slab):
        raise ArithmeticError(f"slab {int(slab)}")

    with pytest.raises(ArithmeticError, match="slab 0"):
        list(map_slabs(fail, torch.arange(4).split(1)))


def test_one_thread_is_undone():
    with pytest.raises(InterruptedError), one_thread():
        assert torch.get_num_threads() == 1
        raise InterruptedError
    assert torch.get_num_threads() == 3
