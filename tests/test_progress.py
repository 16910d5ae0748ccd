"""The time left: what each width has taken so far, on a clock of the test's own."""

import pytest

from comfy_vq import progress
from comfy_vq.plan import Choice, Layer, Plan
from comfy_vq.progress import Clock

SLOW, QUICK, DENSE = Choice("additive", 4), Choice("additive", 2), Choice(None, 16)


def plan(*choices: Choice) -> Plan:
    layers = tuple(Layer(str(i), (100, 100), 16) for i in range(len(choices)))
    chosen = {layer.name: choice for layer, choice in zip(layers, choices, strict=True)}
    return Plan(chosen, layers, 0, 0, 3.0, 3.0, "generic", None)


@pytest.fixture
def now(monkeypatch):
    """Seconds, to be set by the test."""

    class Now:
        seconds = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Now.seconds)
    return Now


def run(clock, now, name, choice, seconds):
    clock.start(name, choice)
    for _ in range(10):
        now.seconds += seconds / 10
        clock.advance(1000)


def test_each_width_is_judged_by_its_own_pace(now):
    seen = []
    clock = Clock(plan(QUICK, SLOW, QUICK, SLOW, DENSE), seen.append)
    run(clock, now, "0", QUICK, 2)
    run(clock, now, "1", SLOW, 30)
    assert seen[-1].seconds_left == pytest.approx(2 + 30, rel=0.01)
    assert seen[-1].layer == "1"


def test_a_width_to_come_is_judged_by_its_work(now):
    seen = []
    clock = Clock(plan(QUICK, SLOW), seen.append)
    run(clock, now, "0", QUICK, 10)
    work = progress.work_per_weight(SLOW) / progress.work_per_weight(QUICK)
    assert seen[-1].seconds_left == pytest.approx(10 * work, rel=0.01)


def test_nothing_is_foretold_in_the_first_second(now):
    seen = []
    clock = Clock(plan(QUICK), seen.append)
    run(clock, now, "0", QUICK, 0.9)
    assert seen and all(one.seconds_left is None for one in seen)


def test_done_grows_to_the_total(now):
    seen = []
    clock = Clock(plan(SLOW, DENSE, QUICK), seen.append)
    run(clock, now, "0", SLOW, 5)
    run(clock, now, "1", DENSE, 0.5)
    run(clock, now, "2", QUICK, 5)
    clock.finish()
    done = [one.done for one in seen]
    assert done == sorted(done) and len(set(done)) > 10
    assert seen[-1].done == seen[-1].total == pytest.approx(seen[-2].total)
    assert seen[-1].seconds_left == 0
