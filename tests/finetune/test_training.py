"""The loop's care for half precision."""

from __future__ import annotations

from dataclasses import replace

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
