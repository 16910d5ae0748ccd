"""What an estimate says, against what then happens."""

import time

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.estimate import Estimate, duration, encoding_seconds, estimate
from comfy_vq.quantize import plan_for, quantize


def weights_of(folder, shapes):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"blocks.{i}.ff.weight": torch.randn(shape, generator=generator).half() / shape[1] ** 0.5
        for i, shape in enumerate(shapes)
    }
    save_file(tensors, folder / "dense.safetensors")
    return checkpoint.open_dense(folder / "dense.safetensors")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_the_time_is_about_right(tmp_path, one_thread, effort):
    shapes = [(640, 640), (1024, 640), (320, 320, 3, 3), (640, 1024)] * 2
    weights = weights_of(tmp_path, shapes)
    plan = plan_for(weights, 2.5)

    def ratio():
        expected, started = encoding_seconds(plan, effort, "cpu"), time.process_time()
        quantize(weights, plan.target, effort=effort, plan=plan)
        return expected / (time.process_time() - started)

    # On a busy machine the same work takes several times as long from one second to the next.
    assert any(0.5 < ratio() < 2 for _ in range(3))


def test_the_size_of_the_file_is_right(tmp_path):
    weights = weights_of(tmp_path, [(512, 512)] * 12)
    plan = plan_for(weights, 4.0)
    expected = estimate(plan, "fast", "cpu", sampling_bytes=7)
    assert expected.sampling_bytes == 7
    path = tmp_path / "vq.safetensors"
    checkpoint.save(path, quantize(weights, plan.target, effort="fast", plan=plan))
    assert expected.file_bytes == pytest.approx(path.stat().st_size, rel=0.02)


@pytest.mark.parametrize("effort", ["fast", "best"])
def test_it_can_be_interrupted(tmp_path, effort):
    def interrupted(_):
        raise KeyboardInterrupt

    plan = plan_for(weights_of(tmp_path, [(512, 512)] * 12), 4.0)
    with pytest.raises(KeyboardInterrupt):
        encoding_seconds(plan, effort, "cpu", on_progress=interrupted)


def test_nothing_to_code_takes_no_time(tmp_path):
    weights = weights_of(tmp_path, [(512, 512)] * 2)
    assert encoding_seconds(plan_for(weights, 16.0), "best", "cpu") == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (41.7, "42 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_it_is_one_line():
    line = str(Estimate(file_bytes=312_400_000, seconds=242, sampling_bytes=1_050_000_000))
    assert "312.4 MB" in line and "4 min 2 s" in line and "1.05 GB" in line and "\n" not in line
