"""The fixed token embedding."""

import hashlib

import pytest
import torch

from comfy_vq.demo.conditioning import LENGTH, WIDTH, embed

CAPTION = "a red circle above a blue square"


def test_values_never_change():
    values = embed([CAPTION]).numpy().astype("<f4").tobytes()
    assert hashlib.sha256(values).hexdigest()[:16] == "4a27e4d20b2dd705"


def test_form():
    context = embed([CAPTION, ""])
    assert context.shape == (2, LENGTH, WIDTH) and context.dtype == torch.float32
    assert not context[1].any() and not context[0, 7:].any()
    assert torch.equal(embed([CAPTION])[0], context[0])
    assert torch.equal(embed([" A red CIRCLE, above a blue square."])[0], context[0])
    assert embed([]).shape == (0, LENGTH, WIDTH)


def test_words_and_places_both_count():
    one, other = embed(["red blue", "blue red"])
    assert not torch.equal(one[0], other[1])
    assert not torch.equal(one[0], other[0])
    # The same word at two places, less what the places add, is the same vector.
    assert torch.equal(one[0] - other[0], other[1] - one[1])


def test_words_are_nearly_orthogonal():
    words = ["red", "green", "blue", "yellow", "circle", "square", "triangle", "above", "below"]
    place = embed(["red"])[0, 0] + embed(["red blue"])[0, 0]
    vectors = embed(words)[:, 0]
    centred = vectors - vectors.mean(0)
    cosines = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=-1)
    assert place.shape == (WIDTH,)
    assert cosines.fill_diagonal_(0).abs().max() < 0.35


def test_too_many_words_are_refused():
    with pytest.raises(ValueError, match="more than 12 words"):
        embed(["a " * 13])
