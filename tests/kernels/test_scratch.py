import threading

import pytest
import torch

from comfy_vq.kernels import scratch

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def empty():
    scratch.release()
    yield
    scratch.release()


def get(rows, columns, dtype=torch.float16):
    return scratch.scratch(rows, columns, dtype, CPU)


def test_one_buffer_serves_every_layer_and_dtype():
    large = get(64, 64, torch.float32)
    assert get(64, 64).data_ptr() == get(3, 5, torch.bfloat16).data_ptr() == large.data_ptr()
    assert get(3, 5).shape == (3, 5) and get(3, 5).dtype == torch.float16


def test_it_is_as_large_as_the_largest_so_far():
    small = get(2, 2)
    assert small.untyped_storage().nbytes() == 8
    assert get(8, 8).untyped_storage().nbytes() == get(2, 2).untyped_storage().nbytes() == 128


def test_more_than_the_limit_is_the_caller_s_own(monkeypatch):
    monkeypatch.setattr(scratch, "LIMIT", 100)
    assert get(5, 10).data_ptr() == get(5, 10).data_ptr()
    large = get(5, 11)
    assert large.data_ptr() != get(5, 11).data_ptr()


def test_threads_do_not_share():
    found = []
    thread = threading.Thread(target=lambda: found.append(get(4, 4)))
    thread.start()
    thread.join()
    assert found[0].data_ptr() != get(4, 4).data_ptr()


def test_it_outlives_inference_mode():
    with torch.inference_mode():
        inside = get(4, 4)
        inside.fill_(1)
    get(4, 4).fill_(2)
    assert not get(4, 4).is_inference()
