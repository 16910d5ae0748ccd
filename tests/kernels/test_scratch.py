import threading
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from comfy_vq.kernels import Additive, Rotation, Trellis, eager, scratch

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


class Living(TorchDispatchMode):
    """The most bytes that tensors made within it have held at a time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if torch.is_tensor(tensor) else None
            if storage is not None and storage._cdata not in given:
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return result

    def _gone(self, nbytes):
        self.now -= nbytes


@pytest.mark.parametrize(
    ("kind", "bits", "set_shape"),
    [
        (Additive, 3, (3, 256, 8)),
        (Additive, 6, (6, 256, 8)),
        (Trellis, 3, (1, 4096, 1)),
        (Trellis, 5, (1, 4096, 1)),
    ],
)
def test_plain_pytorch_decodes_in_16_mib_beside_the_buffer(kind, bits, set_shape):
    codes = torch.zeros(2048, 160, bits, dtype=torch.uint8)
    tables = torch.zeros(set_shape, dtype=torch.uint8)
    out = torch.empty(2048, 1280, dtype=torch.float16)
    rotation, scales = Rotation(128, 0), torch.ones(2048).half()
    with Living() as living:
        weight = kind(codes, tables, 0.01, 0, scales, rotation, 1280)
        decode = eager.decode_trellis if kind is Trellis else eager.decode_additive
        decode(weight, torch.float16, out)
    assert 4 * eager._SLICE < living.most <= 16 << 20
    assert scratch.LIMIT + (16 << 20) <= 64 << 20
