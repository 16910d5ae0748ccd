"""The checker against pictures whose content is known."""

import dataclasses

import numpy as np
import pytest

from comfy_vq.demo.checker import read, score
from comfy_vq.demo.scenes import BACKGROUND, Item, Scene, all_scenes, draw, parse


def test_true_scenes_score_whole():
    rng = np.random.RandomState(0)
    scenes = all_scenes()
    chosen = [scenes[i] for i in rng.choice(len(scenes), 200, replace=False)]
    assert np.mean([score(draw(scene, rng), scene).whole for scene in chosen]) >= 0.99


def test_noise_and_blur_are_tolerated():
    rng = np.random.RandomState(1)
    scenes = all_scenes()[::9]
    pictures = [draw(scene, rng).astype(float) for scene in scenes]
    blurred = [(p + np.roll(p, 1, 0) + np.roll(p, 1, 1)) / 3 for p in pictures]
    noisy = [np.clip(p + 10 * rng.randn(*p.shape), 0, 255) for p in blurred]
    assert np.mean([score(p, s).whole for p, s in zip(noisy, scenes, strict=True)]) >= 0.95


@pytest.mark.parametrize("size", [32, 64, 128])
def test_sizes(size):
    scene = parse("a red circle above a blue square")
    assert score(draw(scene, np.random.RandomState(0), size), scene).whole


def test_each_attribute_is_told_apart():
    scene = parse("a red circle above a blue square")
    first, second = scene.first, scene.second

    def against(**changes):
        shown = draw(dataclasses.replace(scene, **changes), np.random.RandomState(0))
        return dataclasses.astuple(score(shown, scene))

    assert against() == (True, True, True, True)
    assert against(first=Item("green", "circle")) == (False, True, True, False)
    assert against(first=Item("red", "triangle")) == (True, False, True, False)
    assert against(relation="below") == (True, True, False, False)
    assert against(relation="left of") == (True, True, False, False)
    # Colours exchanged: identified by colour, so both the shapes and the places are wrong.
    exchanged = {"first": Item("blue", first.shape), "second": Item("red", second.shape)}
    assert against(**exchanged) == (True, False, False, False)


def test_both_captions_of_an_arrangement_agree():
    rng = np.random.RandomState(2)
    for scene in all_scenes()[::31]:
        assert score(draw(scene, rng), scene.swapped()).whole


def test_nothing_and_too_much_score_nothing():
    scene = Scene(Item("red", "circle"), "above", Item("blue", "square"))
    empty = np.broadcast_to(np.array(BACKGROUND, np.uint8), (64, 64, 3))
    assert read(empty) == ()
    assert not any(dataclasses.astuple(score(empty, scene)))
    rng = np.random.RandomState(0)
    three = np.concatenate([draw(scene, rng), draw(scene, rng)], axis=1)
    assert len(read(three)) == 4
    assert not any(dataclasses.astuple(score(three, scene)))


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match="a picture is"):
        read(np.zeros((1, 64, 64, 3)))
