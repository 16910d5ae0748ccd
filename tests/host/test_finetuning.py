"""Fine-tuning through the host's own modules and samplers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch

from comfy_vq.errors import VQError
from comfy_vq.finetune.training import CODE_RATE
from comfy_vq.finetune.training import Settings as Learning
from comfy_vq.hosts.comfy.display import Display
from comfy_vq.hosts.comfy.evaluation.bench import Settings
from comfy_vq.hosts.comfy.evaluation.report import seeds_of
from comfy_vq.hosts.comfy.files.saving import save_model
from comfy_vq.hosts.comfy.finetuning import ComfyPupil, fine_tune_model
from comfy_vq.hosts.comfy.model import loader
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.nodes.finetune import VQFineTune
from host.families import FAMILIES, random_vq_model
from host.loras import low_rank_lora
from host.sampling import load_dense, sample

LEARNING = Learning(iterations=4, rows=2, evaluations=4)


@pytest.fixture(autouse=True)
def inference_mode():
    """As ComfyUI runs every node, loaders included."""
    with torch.inference_mode():
        yield


def inputs(family: str, pictures: int = 3):
    chosen = FAMILIES[family]
    prompts = seeds_of(*chosen.conditioning(1), 7, pictures)
    return prompts, Settings({"samples": chosen.empty_latent()}, 2, 4.0, "euler", "simple")


def tuned(family, teacher, student, learning=LEARNING, **options):
    return fine_tune_model(teacher, student, *inputs(family), learning, Display(None), **options)


@pytest.fixture
def pair(family):
    """A teacher whose rows, norms and biases differ a little from what its student decodes to."""
    vq = random_vq_model(family)
    generator = torch.Generator().manual_seed(3)
    weights = {
        key: tensor
        * (1 + 0.1 * torch.randn(len(tensor), *[1] * (tensor.ndim - 1), generator=generator))
        if tensor.ndim
        else tensor
        for key, tensor in vq.decode(torch.float32).items()
    }
    return load_dense(weights), load(InMemory(vq))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_tuned_model_is_saved_and_loads_again_to_the_same_answers(
    family, pair, tmp_path, monkeypatch
):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    dense, student = pair
    before = sample(student, family)
    model, outcome = tuned(family, dense, student, recompute=True)
    assert outcome.after_db > outcome.before_db
    assert model.model_size() == student.model_size()
    answers = sample(model, family)
    assert not torch.equal(answers, before)
    assert torch.equal(sample(student, family), before)
    loaded = loader.load_file(save_model(model, "tuned"))
    assert torch.equal(sample(loaded, family), answers)


@pytest.mark.parametrize("family", ["flux"])
def test_codes_move(family, pair):
    dense, student = pair
    learning = replace(LEARNING, code_rate=CODE_RATE, turns=2)
    model, outcome = tuned(family, dense, student, learning)
    before, after = (origin_of(m).read() for m in (student, model))
    assert outcome.after_db > outcome.before_db
    assert after.bits_per_weight == before.bits_per_weight
    assert any(
        not torch.equal(before.layers[n].tensors["codes"], after.layers[n].tensors["codes"])
        for n in before.layers
    )


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_all_that_is_dense_learns(family, pair):
    dense, student = pair
    pupil = ComfyPupil(dense, student, *inputs(family), lambda: None)
    held = origin_of(student).read()
    with torch.inference_mode(False):
        sites = pupil.sites()
    assert sites.coded.keys() == held.layers.keys()
    assert sites.dense.keys() == held.dense.keys()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_blocks_that_are_computed_again_learn_the_same(family, pair):
    one, other = (tuned(family, *pair, recompute=again)[1] for again in (False, True))
    for a, b in zip(one.points, other.points, strict=True):
        assert a.sqnr_db == pytest.approx(b.sqnr_db, abs=1e-3)


@pytest.mark.parametrize("family", ["flux"])
def test_what_a_lora_does_to_the_teacher_is_learned(family, pair):
    dense, student = pair
    teacher, _ = comfy.sd.load_lora_for_models(dense, None, low_rank_lora(dense), 0.3, 0.0)
    plain, lora = (tuned(family, model, student)[1] for model in (dense, teacher))
    assert lora.before_db != plain.before_db
    assert lora.after_db > lora.before_db


@pytest.mark.parametrize("family", ["flux"])
def test_a_cancelled_run_leaves_no_trace(family, pair, monkeypatch):
    dense, student = pair
    before = sample(student, family)
    calls = iter(range(20))

    def interrupted() -> None:
        if next(calls) == 12:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(
        comfy.model_management, "throw_exception_if_processing_interrupted", interrupted
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tuned(family, dense, student)
    monkeypatch.undo()
    assert torch.equal(sample(student, family), before)
    assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("family", ["flux"])
def test_students_that_cannot_learn_are_refused(family, pair):
    dense, student = pair
    with pytest.raises(VQError, match="found a MODEL that is not vector-quantized"):
        tuned(family, dense, dense)
    patched, _ = comfy.sd.load_lora_for_models(student, None, low_rank_lora(student), 1.0, 0.0)
    with pytest.raises(VQError, match="put them after VQ Fine-tune"):
        tuned(family, dense, patched)


@pytest.mark.parametrize("family", ["flux"])
def test_the_node_shows_its_curve(pair, monkeypatch, tmp_path):
    monkeypatch.setattr(
        VQFineTune, "hidden", SimpleNamespace(unique_id=None, prompt=None, extra_pnginfo=None)
    )
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    dense, student = pair
    prompts, settings = inputs("flux")
    node = VQFineTune.execute(
        dense,
        student,
        prompts[0].positive,
        prompts[0].negative,
        settings.latent,
        seed=2**64 - 1,
        steps=2,
        cfg=4.0,
        sampler_name="euler",
        scheduler="simple",
        pictures=2,
        minutes=0.05,
        learning_rate=Learning.rate,
    )
    model, report, curve = node.result
    assert origin_of(model) is not None and "bits per weight as before" in report
    assert curve.ndim == 4 and 0 <= float(curve.min()) < float(curve.max()) <= 1
    assert node.ui["images"] and node.ui["text"]
