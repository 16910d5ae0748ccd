"""Plans by measuring in the real host: any model is asked through its own sampling."""

from __future__ import annotations

import comfy.model_management
import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.model.loader import origin_of
from comfy_vq.hosts.comfy.model.source import ModelSource
from comfy_vq.hosts.comfy.probing import Questions, benches_of, probe_of, questions_of
from comfy_vq.hosts.comfy.quantizing import Planning, quantize_model
from host.families import tiny_state_dict
from host.sampling import load_dense, relative_l2, sample

BITS = 4.0


@pytest.fixture(scope="module", params=["flux", "wan"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def dense(family):
    return load_dense(tiny_state_dict(family))


def small(family: str) -> dict:
    return {"samples": torch.zeros((1, 16, 1, 8, 8) if family == "wan" else (1, 16, 8, 8))}


def measured(dense, family, **planning):
    planning = Planning("measured", latent=small(family), **planning)
    return quantize_model(dense, BITS, "fast", "", planning=planning)


@pytest.fixture(scope="module")
def quantized(dense, family):
    return measured(dense, family)


def test_a_model_of_any_family_is_measured(quantized, family):
    model, report = quantized
    assert "sensitivities: measured" in report
    plan = origin_of(model).read().plan
    assert abs(plan["bits"] - BITS) <= 0.02
    assert plan["sensitivity_db"]


def test_the_model_that_came_in_is_not_changed(dense, family, quantized):
    assert (
        relative_l2(sample(dense, family), sample(load_dense(tiny_state_dict(family)), family))
        < 1e-5
    )


def test_it_is_no_worse_than_the_table(dense, family, quantized):
    """On questions that neither plan was made on."""
    table, _ = quantize_model(dense, BITS, "fast", "")
    source = ModelSource(dense)
    asked = questions_of(dense, None, None, small(family))
    probe = probe_of(dense, source, asked, 8, lambda: None)

    def noise(model) -> float:
        for name, weight in origin_of(model).read().layers.items():
            probe.exchange(name, weight)
        found = probe.noise()
        for name in origin_of(model).read().layers:
            probe.exchange(name, None)
        return found

    assert noise(quantized[0]) <= 1.0001 * noise(table)


def test_an_exchanged_weight_is_what_the_network_answers_with(dense, family):
    source = ModelSource(dense)
    asked = Questions(questions_of(dense, None, None, None).prompts, cfg=1.0, latent=small(family))
    probe = probe_of(dense, source, asked, 8, lambda: None)
    assert probe.noise() == 0
    layer = probe.layers[len(probe.layers) // 2]
    probe.exchange(layer, source.read(f"{layer}.weight") * 0.5)
    assert probe.noise() > 0
    probe.exchange(layer, None)
    assert probe.noise() == 0


@pytest.mark.parametrize("family", ["flux"], indirect=True, scope="module")
class TestTheNode:
    def test_cancelling_stops_it(self, dense, family):
        comfy.model_management.interrupt_current_processing(True)
        try:
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                measured(dense, family)
        finally:
            comfy.model_management.interrupt_current_processing(False)

    def test_the_plan_of_a_file_serves_another_model(self, dense, family, quantized, tmp_path):
        path = tmp_path / "measured.safetensors"
        checkpoint.save(path, origin_of(quantized[0]).read())
        other = load_dense(tiny_state_dict(family, seed=1))
        same, _ = quantize_model(other, BITS, "fast", "", planning=Planning(like=str(path)))
        assert _widths(same) == _widths(quantized[0])

    def test_a_conditioning_is_asked_instead_of_noise(self, dense):
        conditioning = [[torch.ones(1, 4, 768), {}]]
        asked = questions_of(dense, conditioning, None, small("flux"))
        assert asked.cfg == 1.0
        assert all(prompt.positive is conditioning for prompt in asked.prompts)

    def test_small_pictures_are_asked_about_several_times(self, dense):
        asked = questions_of(dense, [[torch.ones(1, 4, 768), {}]], None, small("flux"))
        sizes = []
        for latent in (small("flux"), {"samples": torch.zeros(1, 16, 64, 64)}):
            (few, more) = benches_of(Questions(asked.prompts, 1.0, latent), 8, lambda: None)
            seeds = [*few.seeds, *more.seeds]
            assert len(set(seeds)) == len(seeds)
            sizes.append((len(few.seeds), len(more.seeds)))
        assert sizes == [(2, 2), (1, 2)]

    def test_what_cannot_be_asked_is_said(self, dense, monkeypatch):
        def unknown(*_):
            raise VQError("the width of its conditioning is not known")

        monkeypatch.setattr("comfy_vq.hosts.comfy.probing.random_prompts", unknown)
        with pytest.raises(VQError, match="plan: measured: .* or connect positive"):
            questions_of(dense, None, None, None)


def _widths(model) -> dict[str, str]:
    layers = origin_of(model).read().layers
    return {name: f"{w.spec.codec}-{getattr(w.spec, 'bits', 8)}" for name, w in layers.items()}
