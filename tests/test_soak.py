"""The soak's arithmetic and its order; ``tests/host/test_soak.py`` runs it."""

import random

import pytest

from benchmarks.soak_graphs import SAMPLER, Picture, picture_graph
from benchmarks.soak_result import TOLERANCE, Soak, different, slope, table
from benchmarks.soak_schedule import WITHOUT_VQ, Interruption, Mix, schedule

PICTURE = Picture("sd15", "file", (), 1)
MB = 10**6


def with_memory(megabytes: list[float], warm: int = 20) -> Soak:
    return Soak(warm, resident=[round(value * MB) for value in megabytes])


def noisy(growth: float) -> list[float]:
    """800 MB and what grows in each prompt; 60 MB come and go, with one model or two."""
    rng = random.Random(0)
    return [800 + growth * i + rng.choice((0.0, 60.0)) + rng.random() for i in range(200)]


def test_slope_is_not_moved_by_outliers():
    assert slope([3.0 * i for i in range(50)]) == pytest.approx(3.0)
    assert slope([1000.0 if i == 30 else 3.0 * i for i in range(50)]) == pytest.approx(3.0)


def test_memory_that_only_comes_and_goes_is_no_leak():
    assert with_memory(noisy(0)).leaks() == []


@pytest.mark.parametrize("megabytes", [0.3, 3.0])
def test_the_smallest_model_lost_in_each_prompt_is_a_leak(megabytes):
    """The tiny Flux has 0.3 MB in VQ form."""
    (line,) = with_memory(noisy(megabytes)).leaks()
    assert line.startswith("memory grows by ") and f"at most {TOLERANCE:g}" in line


def test_growth_before_the_server_is_warm_does_not_count():
    soak = with_memory([500 + 10 * min(i, 30) for i in range(200)], warm=34)
    assert (soak.start, soak.end, soak.growth) == (800, 800, 0)


def test_a_rendering_that_differs_from_the_first_is_noticed():
    soak = Soak(0)
    for digest in ("a", "a", "b", "a"):
        soak.compare(PICTURE, digest)
    assert soak.problems() == ["sd15 file, seed 1: differs from its first rendering"]
    assert (soak.rendered, len(soak.first)) == (4, 1)


def test_different_pictures_that_are_alike_are_noticed():
    """A LoRA that does nothing, or a seed that is not used, would make the comparison worthless."""
    soak = Soak(0)
    soak.compare(PICTURE, "a")
    soak.compare(Picture("sd15", "file", (("dora", 1.0),), 1), "a")
    assert soak.problems() == ["sd15 file, dora 1, seed 1: has the bytes of another picture"]


def test_pictures_are_compared_between_servers():
    runs = {"one": Soak(0), "two": Soak(0)}
    for name, digest in (("one", "a"), ("two", "b")):
        runs[name].compare(PICTURE, digest)
        runs[name].compare(Picture("flux", "file", (), 1), "c")
    assert different(runs) == ["sd15 file, seed 1: differs between the servers"]


def test_an_interruption_that_came_too_late_is_noticed():
    soak = Soak(0)
    soak.interrupted[SAMPLER], soak.hits[SAMPLER], soak.alive = 3, 2, False
    assert soak.problems() == ["2 of 3 interruptions stopped the sampler", "the server ended"]


def test_the_order_follows_from_the_seed():
    first, warm = schedule(200, 0, Mix())
    assert schedule(200, 0, Mix()) == (first, warm)
    assert schedule(200, 1, Mix())[0] != first
    assert schedule(100, 0, Mix())[0] == first[:100]


def test_every_kind_occurs_while_warming_up_and_most_occur_again():
    mix = Mix()
    steps, warm = schedule(200, 0, mix)
    first, rest = ([step.prompt for step in part] for part in (steps[:warm], steps[warm:]))
    assert set(mix.faults) <= set(first) and set(mix.faults) <= set(rest)
    assert {p for p in mix.pictures() if p.seed == 1} <= set(first)
    for part in (first, rest):
        nodes = {prompt.node for prompt in part if isinstance(prompt, Interruption)}
        assert nodes == set(mix.interruptions)
    assert len(set(rest) & set(mix.pictures())) > 40
    assert any(step.unload for step in steps[:warm]) and any(step.unload for step in steps[warm:])


def test_without_vq_no_node_of_ours_takes_part():
    steps, _ = schedule(100, 0, WITHOUT_VQ)
    for nonce, step in enumerate(steps):
        prompt = step.prompt
        drawn = isinstance(prompt, Picture)
        graph = picture_graph(prompt, nonce) if drawn else prompt.graph(nonce)
        assert not [name for name in graph if "VQ" in graph[name]["class_type"]]


def test_too_few_prompts_are_refused():
    with pytest.raises(ValueError, match="found 34 prompts, expected more than the 34 that warm"):
        schedule(34, 0, Mix())


def test_no_two_prompts_are_the_same_to_the_hosts_cache():
    assert PICTURE in Mix().pictures()
    graphs = [Interruption("quantizer", PICTURE).graph(nonce) for nonce in range(20)]
    asked = {graph["quantizer"]["inputs"]["bits"] for graph in graphs}
    assert len(asked) == 20


def test_the_table_has_a_column_for_each_run():
    soak = with_memory(noisy(0))
    soak.faults["17 bits"] = 3
    soak.free = [2 * 10**9, 10**9]
    lines = table({"one": soak, "two": soak}).splitlines()
    assert lines[0] == "| | one | two |"
    assert "| prompts | 200 | 200 |" in lines
    assert "| fault: 17 bits | 3 | 3 |" in lines
    assert any("2.00 / 1.00" in line for line in lines)
