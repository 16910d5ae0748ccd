"""A network of diffusers gives every part of a VQ model a place to learn in."""

from __future__ import annotations

import pytest
import torch

import sd_model

pytest.importorskip("diffusers")

from comfy_vq import codecs
from comfy_vq.finetune.questions import Question
from comfy_vq.finetune.student import Student
from comfy_vq.finetune.training import Settings, Training
from comfy_vq.hosts.diffusers import load_unet
from comfy_vq.hosts.diffusers_finetuning import sites_of
from comfy_vq.model import VQModel

CHANNELS, CONTEXT = 32, 16


@pytest.fixture(scope="module")
def model() -> VQModel:
    layers, rest = {}, sd_model.state_dict(CHANNELS, CONTEXT, dtype=torch.float16)
    for key in [k for k, t in rest.items() if t.ndim in (2, 4) and t.shape[1] % 8 == 0]:
        codec, bits = (("additive", 2), ("int8", 8))[len(layers) % 2]
        weight = rest.pop(key)
        layers[key.removesuffix(".weight")] = codecs.encode(weight, bits, codec, "fast")
    return VQModel(layers=layers, dense=rest)


def question() -> Question:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 5, CONTEXT, generator=generator)
    answer = torch.randn(2, 4, 8, 8, generator=generator)
    return Question((x, torch.tensor([500, 100]), context), {}, answer)


def test_every_layer_and_every_tensor_has_a_place(model):
    sites = sites_of(model)
    assert sites.coded.keys() == model.layers.keys()
    assert sites.dense.keys() == model.dense.keys()


def test_while_it_learns_the_network_answers_as_it_did(model):
    sites, asked = sites_of(model), question()
    student = Student(model, sites)
    with torch.no_grad():
        before = asked.ask(load_unet(model), "cpu")
        with student.learning():
            torch.testing.assert_close(asked.ask(sites.network, "cpu"), before)
        torch.testing.assert_close(asked.ask(sites.network, "cpu"), before)


def test_all_of_it_gets_gradients(model):
    student = Student(model, sites_of(model))
    training = Training(student, [question()], [question()], Settings(iterations=3, rows=2))
    training.run()
    assert training.best_point.sqnr_db > training.history.points[0].sqnr_db
    still = [name for name, w in student.coded.items() if bool((w.factors == 1).all())]
    assert not still
    tuned = student.model()
    assert all(not torch.equal(tuned.dense[k], t) for k, t in model.dense.items())
