"""The fixed token embedding."""

import hashlib

import pytest
import torch

from comfy_vq.demo.conditioning import LENGTH, WIDTH, embed

CAPTION = "a red circle above a blue square"


def test_values_never_change():
    values = embed([CAPTION]).numpy().astype("<f4").tobytes()
    assert hashlib.sha256(values).hexdigest()[:16] == "ebf145e0c3dc92c8"


def test_form():
    context = embed([CAPTION, ""])
    assert context.shape == (2, LENGTH, WIDTH) and context.dtype == torch.float32
    assert context[0, :5].any(1).all() and not context[0, 5:].any() and not context[1].any()
    assert torch.equal(embed([CAPTION])[0], context[0])
    assert embed([]).shape == (0, LENGTH, WIDTH)


@pytest.mark.parametrize(
    "text", [" A red CIRCLE, above the blue square.", "red circle above blue square"]
)
def test_only_words_that_count_count(text):
    assert torch.equal(embed([text]), embed([CAPTION]))


def test_roles_have_the_same_place_in_every_caption():
    above, beside = embed([CAPTION, "a red circle to the left of a blue square"])
    differs = (above != beside).any(1)
    assert differs.nonzero().flatten().tolist() == [2]


def test_tokens_are_nearly_orthogonal_once_their_mean_is_gone():
    words = ["red", "green", "blue", "yellow", "circle", "square", "triangle", "above", "left"]
    vectors = embed(words)[:, 0]
    centred = vectors - vectors.mean(0)
    cosines = torch.nn.functional.cosine_similarity(centred[:, None], centred[None], dim=-1)
    assert cosines.fill_diagonal_(0).abs().max() < 0.35


def test_the_order_shows_even_in_the_mean():
    one, other = embed(["red circle above blue square", "blue circle above red square"])
    assert not torch.equal(one.mean(0), other.mean(0))


def test_too_many_words_are_refused():
    with pytest.raises(ValueError, match="more than 8 words"):
        embed(["red " * 9])
