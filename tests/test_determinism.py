"""The same weights, bits, effort and seed give the same bytes: on a CPU, for any number of threads.

Not claimed, and not tested, between a CPU and a graphics card, between two kinds of processor, or
between versions of torch: each may round a product its own way, and the nearest code may change.
"""

import hashlib

import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq import checkpoint
from comfy_vq.quantize import quantize


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Widths that rotate by 128, by 64 and not at all; a convolution; rows that do not fill a slab."""
    path = tmp_path_factory.mktemp("determinism") / "model.safetensors"
    random = sd_model.state_dict(channels=64, context=96, dtype=torch.float16)
    generator = torch.Generator().manual_seed(1)
    large = torch.randn(500, 1280, generator=generator).half() / 32
    save_file({**random, "middle_block.1.extra.weight": large}, path)
    return path


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("codec", "effort"),
    [("additive", "fast"), ("additive", "balanced"), ("additive", "best"), ("trellis", "fast")],
)
def test_the_number_of_threads_does_not_show(source, tmp_path, threads, codec, effort):
    found = set()
    for count in (1, 2, 3, 8):
        threads(count)
        checkpoint.save(
            tmp_path / "vq",
            quantize(checkpoint.open_dense(source), 3.0, effort=effort, codec=codec),
        )
        found.add(hashlib.sha256((tmp_path / "vq").read_bytes()).hexdigest())
    assert len(found) == 1


def test_another_seed_shows(source, tmp_path):
    found = set()
    for seed in (0, 1):
        model = quantize(checkpoint.open_dense(source), 3.0, effort="fast", seed=seed)
        checkpoint.save(tmp_path / "vq", model)
        found.add(hashlib.sha256((tmp_path / "vq").read_bytes()).hexdigest())
    assert len(found) == 2
