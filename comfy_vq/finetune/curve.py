"""Learning as a picture; needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .training import Point


def draw_curve(points: Sequence[Point]) -> np.ndarray:
    """Quality on the held-out questions and loss against time: uint8 ``[h, w, 3]``."""
    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    minutes = [point.seconds / 60 for point in points]
    axes.plot(minutes, [p.sqnr_db for p in points], "o-", label="held-out questions")
    losses = [
        (m, p.loss_db) for m, p in zip(minutes, points, strict=True) if math.isfinite(p.loss_db)
    ]
    if losses:
        axes.plot(*zip(*losses, strict=True), "--", color="tab:gray", label="learned from")
    best = max(points, key=lambda point: point.sqnr_db)
    axes.axhline(best.sqnr_db, color="tab:green", linewidth=1, linestyle=":")
    axes.set(
        xlabel="minutes of learning",
        ylabel="SQNR of predictions, dB",
        title=f"VQ Fine-tune: {points[0].sqnr_db:.1f} dB to {best.sqnr_db:.1f} dB",
    )
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
