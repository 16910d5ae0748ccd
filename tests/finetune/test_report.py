"""What people read of a fine-tuning."""

from __future__ import annotations

import math

import numpy as np
import pytest

from comfy_vq.finetune.report import to_text
from comfy_vq.finetune.rounds import Outcome
from comfy_vq.finetune.training import Point

from . import toy

POINTS = (
    Point(0, 1.0, math.nan, 20.0),
    Point(40, 60.0, 24.0, 23.5),
    Point(80, 120.0, 25.0, 23.25),
)


def test_the_text_says_what_was_gained_and_at_what_size():
    model = toy.coded(toy.teacher())
    first, *rest = to_text("tuned", Outcome(model, POINTS, "the plan of memory")).splitlines()
    assert first.startswith("tuned: 20.00 dB -> 23.50 dB (+3.50 dB)")
    assert f"{model.bits_per_weight:.3f} bits per weight as before" in first
    assert "80 iterations in 2 min" in first
    assert "| 40 | 60.0 | 24.00 | 23.50 |" in rest
    assert rest[-1] == "the plan of memory"


def test_the_curve_is_drawn():
    pytest.importorskip("matplotlib")
    from comfy_vq.finetune.curve import draw_curve

    one, other = draw_curve(POINTS), draw_curve(POINTS[:1])
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
    assert not np.array_equal(one, other)
