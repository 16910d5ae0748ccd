"""The loop's care for half precision."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from comfy_vq.finetune.following import numbers
from comfy_vq.finetune.questions import Question
from comfy_vq.finetune.student import Student
from comfy_vq.finetune.training import Settings, Training

from . import toy


def trained(half: bool, scale: float | None = None) -> Training:
    """A few iterations on answers that a network in half precision would have given."""
    dense = toy.teacher()
    model = toy.coded(dense)
    found = [q for group in toy.Pupil(model, dense).taught() for q in group]
    questions: list[Question] = [
        replace(q, answer=q.answer.half()) if half else replace(q, answer=q.answer.half().float())
        for q in found
    ]
    student = Student(model, toy.sites(model))
    settings = Settings(iterations=6, rows=4, code_rate=3e-3, turns=3, evaluations=2)
    training = Training(student, questions[3:], questions[:3], settings)
    if scale is not None:
        training.history.scale = scale
    training.run()
    return training


def test_a_scaled_loss_leads_to_the_same_place():
    plain, scaled = trained(False), trained(True)
    assert plain.history.scale == 1 and scaled.history.scale > 1
    for a, b in zip(plain.history.points, scaled.history.points, strict=True):
        assert abs(a.sqnr_db - b.sqnr_db) < 1e-3


def test_an_overflow_changes_nothing_but_the_scale():
    training = trained(True, scale=2.0**130)
    assert training.history.iteration == 6
    assert training.history.steps < 6
    assert training.history.scale < 2.0**130
    assert all(torch.isfinite(tensor).all() for tensor in training.student.state().values())


def begun(settings: Settings) -> Training:
    """On a student with two codecs whose codes can move."""
    dense = toy.teacher()
    model = toy.coded(dense)
    questions = [q for group in toy.Pupil(model, dense).taught() for q in group]
    student = Student(model, toy.sites(model))
    return Training(student, questions[3:], questions[:3], settings)


def test_steps_that_are_too_long_are_shortened_and_begin_again_from_the_best():
    settings = Settings(iterations=40, rate=1.0, code_rate=0.3, turns=2, evaluations=20)
    training = begun(replace(settings, patience=100))
    paces = [1.0]

    def watch(training: Training) -> None:
        points = training.history.points
        if training.history.iteration != points[-1].iteration:
            return
        paces.append(training.history.pace)
        was, first = points[-1].sqnr_db, points[0].sqnr_db
        if was >= first:
            assert paces[-1] == paces[-2]
            return
        assert 0.1 * paces[-2] <= paces[-1] <= 0.5 * paces[-2]
        assert all(torch.equal(t, training.best[n]) for n, t in training.student.state().items())
        for name, follower in training.followers.items():
            assert torch.equal(follower.target, numbers(training.student.coded[name].weight))
            assert not follower.mean.any()
        assert not any(state["exp_avg"].any() for state in training.optimizer.state.values())

    training.run(watch)
    assert len(paces) > 15
    assert paces[-1] < 0.5
    assert training.best_point.sqnr_db > training.history.points[0].sqnr_db + 0.2


def test_an_answer_that_is_not_a_number_is_worse_than_any():
    training = begun(Settings(iterations=4, evaluations=4))
    network = training.student.network
    answers = network.forward

    def broken(*args: Tensor, **kwargs: Tensor) -> Tensor:
        evaluating, later = not torch.is_grad_enabled(), training.history.points
        return answers(*args, **kwargs) * (math.nan if evaluating and later else 1)

    network.forward = broken
    training.run()
    first, *later = training.history.points
    assert len(later) == 4
    assert all(point.sqnr_db == -math.inf for point in later)
    assert training.best_point is first
    assert all(torch.equal(t, training.first[n]) for n, t in training.student.state().items())
