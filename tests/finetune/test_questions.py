"""What a network was called with: kept, put together, asked again."""

from __future__ import annotations

import pytest
import torch

from comfy_vq.errors import VQError
from comfy_vq.finetune.questions import Question, joined, recorded

from . import toy


def question(rows: int, step: float = 1.0, plain: bool = True, **kwargs) -> Question:
    x = torch.full((rows, 3), step)
    return Question((x, torch.full((rows,), step)), kwargs, 2 * x, plain)


def test_calls_are_kept_as_they_were_made():
    network, x, context = toy.teacher(), torch.randn(2, 8, 4, 4), torch.randn(2, toy.WIDTH)
    with torch.inference_mode(), recorded(network) as questions:
        answer = network(x, context=context)
        x.zero_()
    network(x, context=context)
    (kept,) = questions
    assert not kept.answer.is_inference() and torch.equal(kept.answer, answer)
    assert torch.equal(kept.ask(network, "cpu"), answer)


def test_rows_of_several_calls_become_one_call():
    whole = joined(
        [
            question(2, 1.0, c={"y": [torch.zeros(2, 4)]}, s=None),
            question(1, 3.0, c={"y": [torch.ones(1, 4)]}, s=None),
        ]
    )
    assert whole is not None and whole.rows == 3
    assert whole.args[1].tolist() == [1, 1, 3]
    assert whole.kwargs["c"]["y"][0].shape == (3, 4) and whole.kwargs["s"] is None
    assert torch.equal(whole.answer, 2 * whole.args[0])


@pytest.mark.parametrize(
    "other",
    [
        question(2, plain=False),
        question(2, scale=2),
        question(2, extra=1, scale=1),
        Question((torch.zeros(2, 5), torch.zeros(2)), {"scale": 1}, torch.zeros(2, 3)),
    ],
    ids=["patched", "another value", "another argument", "another shape"],
)
def test_calls_that_differ_are_asked_one_by_one(other):
    assert joined([question(2, scale=1), other]) is None


def test_tensors_without_rows_have_to_be_equal():
    shared = torch.arange(5)
    together = joined([question(2, s=shared), question(1, s=shared.clone())])
    assert together is not None and torch.equal(together.kwargs["s"], shared)
    assert joined([question(2, s=shared), question(1, s=shared + 1)]) is None


def test_networks_of_several_outputs_are_refused():
    two = Question((torch.zeros(1),), {}, torch.zeros(1))
    with pytest.raises(VQError, match="answers with tuple, expected one tensor"):
        two.ask(lambda x: (x, x), "cpu")
