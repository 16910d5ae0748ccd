"""The loop's care for half precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

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


def test_a_student_that_is_near_its_teacher_learns_in_smaller_steps():
    dense = toy.teacher()
    far = toy.coded(dense)
    near = toy.coded(dense, {name: ("int8", 8) for name in toy.LAYERS})
    questions = [q for group in toy.Pupil(far, dense).taught() for q in group]
    steps, before_db = [], []
    for model in (far, near):
        student = Student(model, toy.sites(model))
        settings = Settings(iterations=1, rate=1e-2, evaluations=0)
        training = Training(student, questions[3:], questions[:3], settings)
        training.run(
            lambda t: steps.append(float(t.student.coded["inner"].factors.detach()[0] - 1))
        )
        before_db.append(training.history.points[0].sqnr_db)
    assert before_db[0] < 33 < before_db[1]
    shorter = 10 ** ((33 - before_db[1]) / 20)
    assert abs(steps[1]) == pytest.approx(shorter * abs(steps[0]), rel=1e-2)
