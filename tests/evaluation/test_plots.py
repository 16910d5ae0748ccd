"""What the plots show, read from matplotlib's figures."""

import itertools
import math

import pytest

pytest.importorskip("matplotlib")

from comfy_vq.evaluation.bench import Size
from comfy_vq.evaluation.figures import FLOOR, Figures, NoiseFigures
from comfy_vq.evaluation.intervals import Interval
from comfy_vq.evaluation.plots import by_layer, by_timestep, rate_quality

TIMESTEPS = (900.0, 500.0, 100.0)


def model(name: str, bits: int, quality: float, **options) -> Figures:
    steps = tuple(Interval(quality + offset, quality - 1, quality + 3) for offset in (2, 1, 0))
    noise = NoiseFigures(Interval(quality, quality - 1, quality + 3), steps)
    return Figures(name, Size(bits, 8), 1.0, noise=noise, **options)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_candidate_is_a_labelled_point_and_the_floor_a_line():
    figure = rate_quality([model(FLOOR, 16, 50), model("a", 4, 20), model("b", 3, 15)])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [FLOOR, "a", "b"]
    points = [tuple(map(float, bars.lines[0].get_xydata()[0])) for bars in axes.containers]
    assert points == [(4, 20), (3, 15)]
    assert list(axes.lines[0].get_ydata()) == [50, 50]


def test_error_bars_reach_to_the_ends_of_the_interval():
    (bars,) = rate_quality([model("a", 4, 20)]).axes[0].containers
    (segment,) = bars.lines[2][0].get_segments()
    assert [tuple(map(float, end)) for end in segment] == [(4, 19), (4, 23)]


def test_labels_of_points_in_one_place_do_not_overlap():
    figure = rate_quality([model(f"candidate {i}", 4, 20 + i / 10) for i in range(5)])
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_what_is_one_thing_at_several_sizes_is_joined_and_of_one_colour():
    models = [model("a", 4, 20), model("b 3", 3, 15), model("b 5", 5, 30), model("c", 3, 10)]
    (axes,) = rate_quality(models, {"b": ["b 5", "b 3", "b 2"]}).axes
    points = {
        bars.lines[0].get_xydata()[0][1]: bars.lines[0].get_color() for bars in axes.containers
    }
    assert points[15] == points[30] and len({points[20], points[15], points[10]}) == 3
    lines = [line.get_xydata().tolist() for line in axes.lines if line.get_alpha()]
    assert lines == [[[3, 15], [5, 30]]]


def test_labels_of_many_points_cover_neither_each_other_nor_points():
    models = [model(f"candidate {i}", 3 + i % 3, 20 + i) for i in range(24)]
    figure = rate_quality(models)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    places = axes.transData.transform(
        [(one.size.bits_per_weight, 20 + i) for i, one in enumerate(models)]
    )
    assert not any(box.contains(*place) for box in boxes for place in places)


def test_timesteps_run_from_noisy_to_clean_with_a_band_each():
    figure = by_timestep([model("a", 4, 20), model("b", 3, 15)], TIMESTEPS)
    (axes,) = figure.axes
    assert legend(figure) == ["a", "b"] and len(axes.collections) == 2
    assert list(axes.lines[0].get_xdata()) == [900, 500, 100]
    assert list(axes.lines[1].get_ydata()) == [17, 16, 15]
    assert axes.xaxis_inverted()


def test_layers_keep_their_place_where_a_candidate_lacks_one():
    full = model("a", 4, 20, layer_nmse={"x": 0.1, "y": 0.01, "z": 0.001})
    part = model("b", 3, 15, layer_nmse={"x": 1.0, "z": 0.1})
    figure = by_layer([full, part])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z"]
    assert axes.lines[0].get_xydata().tolist() == [[0, -10], [1, -20], [2, -30]]
    assert axes.lines[1].get_xydata().tolist() == [[0, 0], [2, -10]]


def test_what_has_no_error_or_no_interval_is_drawn_without(tmp_path):
    exact, alone = Interval(math.inf), Interval(20.0)
    models = [
        Figures("exact", Size(2, 8), 1.0, NoiseFigures(exact, (exact,) * 3), layer_nmse={"x": 0.0}),
        Figures("alone", Size(4, 8), 1.0, NoiseFigures(alone, (alone,) * 3), layer_nmse={"x": 0.1}),
    ]
    figures = [rate_quality(models), by_timestep(models, TIMESTEPS), by_layer(models)]
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["alone"]
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
    values = figures[1].axes[0].lines[0].get_ydata()
    assert all(math.isnan(value) for value in values)
