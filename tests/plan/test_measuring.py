"""The script that measures sensitivities, on a network whose sensitivities are known."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from training.measure_sensitivity import sensitivity_db


def test_measures_gain_from_weight_error_to_output_error() -> None:
    """y = 0.1 A x + B x: error of A shows 20 dB less than error of B, and B's almost fully."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    weights = {"a.weight": random(128, 64), "b.weight": random(128, 64), "odd.weight": random(8, 5)}
    before = {key: weight.clone() for key, weight in weights.items()}
    x = random(64, 200)
    found = sensitivity_db(
        weights, ["a", "b"], lambda: 0.1 * weights["a.weight"] @ x + weights["b.weight"] @ x
    )
    assert found["b"] == pytest.approx(0, abs=0.5)
    assert found["a"] == pytest.approx(-20, abs=0.5)
    assert sensitivity_db(weights, ["odd"], lambda: x)["odd"] < -60
    assert all(torch.equal(weights[key], before[key]) for key in weights)
