"""Fine-tuning through the host's own modules and samplers."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch

from comfy_vq.errors import VQError
from comfy_vq.finetune.training import CODE_RATE
from comfy_vq.finetune.training import Settings as Learning
from comfy_vq.hosts.comfy import loader
from comfy_vq.hosts.comfy.display import Display
from comfy_vq.hosts.comfy.evaluation.bench import Settings
from comfy_vq.hosts.comfy.evaluation.report import seeds_of
from comfy_vq.hosts.comfy.finetuning import ComfyPupil, fine_tune_model
from comfy_vq.hosts.comfy.loader import origin_of
from comfy_vq.hosts.comfy.quantizing import quantize_model
from comfy_vq.hosts.comfy.saving import save_model
from comfy_vq.nodes.finetune import VQFineTune
from host.families import FAMILIES, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample

LEARNING = Learning(iterations=10, rows=2, evaluations=5)


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
    dense = load_dense(tiny_state_dict(family))
    return dense, quantize_model(dense, 2.5 if family == "sd15" else 4.0, "fast", "")[0]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_tuned_model_is_saved_and_loads_again_to_the_same_answers(
    family, pair, tmp_path, monkeypatch
):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    dense, student = pair
    before = sample(student, family)
    learning = Learning(iterations=10, rows=2, evaluations=5, code_rate=CODE_RATE, turns=2)
    model, outcome = tuned(family, dense, student, learning, recompute=True)
    assert outcome.after_db > outcome.before_db
    assert model.model_size() == student.model_size()
    answers = sample(model, family)
    assert not torch.equal(answers, before)
    assert torch.equal(sample(student, family), before)
    loaded = loader.load_file(save_model(model, "tuned"))
    assert torch.equal(sample(loaded, family), answers)


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_all_that_is_dense_learns(family, pair):
    dense, student = pair
    pupil = ComfyPupil(dense, student, *inputs(family), lambda: None)
    held = origin_of(student).read()
    with torch.inference_mode(False):
        sites = pupil.sites()
    assert sites.coded.keys() == held.layers.keys()
    assert sites.dense.keys() == held.dense.keys()


@pytest.mark.parametrize("family", ["sd15"])
def test_blocks_that_are_computed_again_learn_the_same(family, pair):
    one, other = (tuned(family, *pair, recompute=again)[1] for again in (False, True))
    for a, b in zip(one.points, other.points, strict=True):
        assert a.sqnr_db == pytest.approx(b.sqnr_db, abs=1e-3)


@pytest.mark.parametrize("family", ["flux"])
def test_what_a_lora_does_to_the_teacher_is_learned(family, pair):
    dense, student = pair
    teacher, _ = comfy.sd.load_lora_for_models(dense, None, low_rank_lora(dense), 0.3, 0.0)
    learning = Learning(iterations=40, rows=2, evaluations=5)
    model, outcome = tuned(family, teacher, student, learning)
    wanted = sample(teacher, family)
    assert outcome.after_db > outcome.before_db
    assert relative_l2(wanted, sample(model, family)) < relative_l2(wanted, sample(student, family))


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


def test_the_node_shows_its_curve(monkeypatch, tmp_path):
    monkeypatch.setattr(VQFineTune, "hidden", SimpleNamespace(unique_id=None))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    dense = load_dense(tiny_state_dict("flux"))
    student, _ = quantize_model(dense, 4.0, "fast", "")
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
