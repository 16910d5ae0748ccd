"""The paper's numbers are the defaults, and what differs is said."""

from dataclasses import replace

from comfy_vq.protocol.encode import Encoding
from comfy_vq.protocol.numbers import MODELS, Numbers
from comfy_vq.protocol.run import Schedule
from comfy_vq.protocol.tuning import Tuning


def test_sdxl_is_run_by_the_papers_numbers():
    numbers = MODELS["sdxl"]
    assert (numbers.steps, numbers.cfg, numbers.sampler) == (50, 5.0, "ddim")
    assert numbers.schedule(4, 7) == Schedule(Encoding(4), Tuning(), 256, 7)
    assert numbers.changes() == []


def test_the_defaults_are_the_papers():
    assert Encoding() == Encoding(3, 100, 100, 1e-4, 8, 0.01, 1000)
    assert Tuning() == Tuning(count=512, epochs=4, batch=64, rate=1e-6)


def test_what_was_cut_is_named():
    changed = replace(Numbers(), count=8, tuning_count=16)
    assert changed.changes() == ["count: 8 instead of 256", "tuning count: 16 instead of 512"]
    smaller = MODELS["demo"].changes()
    assert "rounds: 1 instead of 1000" in smaller and "steps: 20 instead of 50" in smaller
    assert not any(line.startswith(("beam", "sampler", "scheduler")) for line in smaller)
