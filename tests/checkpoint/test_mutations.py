"""Thousands of damaged files: an error or a model, and never anything else."""

from __future__ import annotations

import subprocess

from benchmarks.mutations import Result, collect, run

COUNT = 5000


def test_every_mutation_is_refused_or_loads() -> None:
    result = run(COUNT)
    failures = "\n".join(f"seed {seed}: {what}" for seed, what in result.failures.items())
    assert not result.failures, f"python -m benchmarks.mutations --count 1 --first SEED\n{failures}"
    print(dict(result.outcomes))
    assert sum(result.outcomes.values()) == COUNT
    assert min(result.outcomes["refused"], result.outcomes["loaded"]) > COUNT // 50
    assert result.memory < 256 << 20


def test_a_child_that_dies_is_a_failure_of_the_seed_it_was_at() -> None:
    told = '1\n1 refused\n2\n2 failed "ValueError: x"\n3\n'
    died = subprocess.CompletedProcess([], -11, told, "Fatal Python error: Segmentation fault")
    result = Result()
    assert collect(died, 1, 10, result) == 4
    assert result.outcomes == {"refused": 1}
    assert result.failures.keys() == {2, 3}
    assert "-11" in result.failures[3] and "Segmentation" in result.failures[3]
