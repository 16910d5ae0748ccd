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


def test_a_layer_that_is_coded_under_moments_shows_less() -> None:
    """The input has one direction, in which feedback leaves next to no error."""
    generator = torch.Generator().manual_seed(0)
    weights = {"a.weight": torch.randn(32, 64, generator=generator)}
    x = torch.randn(64, 1, generator=generator)
    moments = {"a": (x @ x.T + 1e-3 * torch.eye(64))[None]}
    plain, fed = (
        sensitivity_db(weights, ["a"], lambda: weights["a.weight"] @ x, aim)["a"]
        for aim in (None, moments)
    )
    assert fed < plain - 10
