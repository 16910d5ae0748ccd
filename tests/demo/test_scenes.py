"""Scenes, captions and the split."""

import hashlib

import numpy as np
import pytest

from comfy_vq.demo.scenes import (
    BACKGROUND,
    COLOURS,
    RELATIONS,
    SHAPES,
    all_scenes,
    draw,
    held_out,
    inside,
    parse,
    training,
)


def test_captions_round_trip():
    scenes = all_scenes()
    assert len(scenes) == len(set(scenes)) == 432
    assert len({scene.caption for scene in scenes}) == len(scenes)
    assert all(parse(scene.caption) == scene for scene in scenes)


def test_captions_are_read_leniently():
    scene = parse("a red circle left of a blue square")
    assert parse("  A red circle to the left of a blue square. ") == scene


@pytest.mark.parametrize(
    "caption",
    ["", "a red circle", "a pink circle above a blue square", "a red circle above a red square"],
)
def test_other_captions_are_refused(caption):
    with pytest.raises(ValueError, match="demo scene"):
        parse(caption)


def test_the_split_is_fixed_and_covers_every_value():
    assert set(held_out()) | set(training()) == set(all_scenes())
    assert not set(held_out()) & set(training())
    assert 0.10 <= len(held_out()) / len(all_scenes()) <= 0.15
    text = "\n".join(scene.caption for scene in held_out())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "dcaf888ebca92c24"
    for split in (held_out(), training()):
        assert {scene.relation for scene in split} == set(RELATIONS)
        assert {scene.first.colour for scene in split} == set(COLOURS)
        assert {scene.first.shape for scene in split} == set(SHAPES)


def test_both_captions_of_an_arrangement_are_on_one_side():
    kept_out = set(held_out())
    assert all(scene.swapped() in kept_out for scene in kept_out)
    assert all(scene.swapped().swapped() == scene for scene in all_scenes())


@pytest.mark.parametrize("size", [32, 64])
def test_drawings(size):
    scene = parse("a red circle above a blue square")
    picture = draw(scene, np.random.RandomState(0), size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert tuple(picture[0, 0]) == BACKGROUND
    colours = {tuple(int(v) for v in pixel) for pixel in picture.reshape(-1, 3)}
    assert {COLOURS["red"], COLOURS["blue"], BACKGROUND} <= colours
    assert np.array_equal(picture, draw(scene, np.random.RandomState(0), size))
    assert not np.array_equal(picture, draw(scene, np.random.RandomState(1), size))


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="unknown shape"):
        inside("star", np.zeros(1), np.zeros(1))
