"""Differences between candidates on the same prompts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gaps import Observed, gap_db, gap_table
from comfy_vq.evaluation.bench import Recording

RECORDING = Recording((900.0, 100.0), torch.ones(2, 3, 4), torch.ones(3, 4), None)


class Predicting:
    """A bench whose models are what they predict."""

    name = "toy"

    def load(self, path):
        return torch.full((2, 3, 4), float(path.name))

    def floor(self, model):
        return torch.zeros(2, 3, 4)

    def predict(self, model, recording):
        return model


def test_errors_are_kept_by_prompt_for_each_file():
    bench = Observed(Predicting())
    assert bench.name == "toy"
    for name in ("3", "0"):
        model = bench.load(Path(name))
        assert bench.predict(model, RECORDING) is model
    assert set(bench.noises) == {Path("3"), Path("0")}
    assert bench.noises[Path("3")].tolist() == [32.0] * 3  # 2 steps of 4 errors of 2


def test_the_noise_floor_is_taken_for_no_file():
    bench = Observed(Predicting())
    bench.predict(bench.load(Path("3")), RECORDING)
    bench.predict(bench.floor(Path("reference")), RECORDING)
    assert bench.noises[Path("3")].tolist() == [32.0] * 3


def test_a_gap_is_the_ratio_of_noises():
    noises = {"a": np.array([1.0, 3.0]), "b": np.array([4.0, 4.0])}
    assert gap_db(noises, "a", "b").value == pytest.approx(10 * math.log10(2))
    assert gap_db(noises, "b", "a").value == pytest.approx(-10 * math.log10(2))


def test_what_varies_with_the_prompt_alone_leaves_no_doubt_about_a_gap():
    hard = np.array([1.0, 100.0, 7.0, 0.1])
    gap = gap_db({"a": hard, "b": 2 * hard}, "a", "b")
    assert gap.value == pytest.approx(gap.low) == pytest.approx(gap.high)


def test_a_table_has_ours_down_and_theirs_across():
    noises = {
        "VQ3": np.array([1.0, 1.0]),
        "NF4": np.array([10.0, 10.0]),
        "Q4": np.array([0.5, 0.5]),
    }
    lines = gap_table(noises, ["VQ3"], ["NF4", "Q4"]).splitlines()
    assert lines[0] == "| dB over | NF4 | Q4 |"
    assert lines[2] == "| VQ3 | +10.0 ± 0.0 | -3.0 ± 0.0 |"
