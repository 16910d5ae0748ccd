"""Conditioning for models from files: by their own encoders, or at random."""

from __future__ import annotations

import pytest
import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.evaluation import files, prompting
from comfy_vq.hosts.comfy.evaluation.files import Sampling, bench_for
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.sampling import load_dense

PREFIX = "model.diffusion_model."


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


def sampling(**options) -> Sampling:
    return Sampling(**{"texts": ["a", "b"], "steps": 2, "cfg": 4.0, "sampler": "euler"} | options)


def test_random_conditioning_has_the_shapes_that_a_model_takes(family):
    chosen = FAMILIES[family]
    prompts = prompting.random_prompts(load_dense(tiny_state_dict(family)), ["a", "b"], 5)
    (context, details), *_ = prompts[0].positive
    assert context.shape[0] == 1 and context.shape[2] == chosen.context
    pooled = details.get("pooled_output")
    assert (0 if pooled is None else pooled.shape[1]) == chosen.pooled
    assert [(prompt.text, prompt.seed) for prompt in prompts] == [("a", 5), ("b", 6)]


def test_random_conditioning_depends_on_the_text_alone():
    model = load_dense(tiny_state_dict("flux"))
    first, other = prompting.random_prompts(model, ["a", "b"], 0)
    (again,) = prompting.random_prompts(model, ["a"], 9)
    assert torch.equal(first.positive[0][0], again.positive[0][0])
    assert not torch.equal(first.positive[0][0], other.positive[0][0])
    assert torch.equal(first.negative[0][0], other.negative[0][0])


def test_a_model_of_unknown_width_needs_text_encoders(monkeypatch):
    monkeypatch.setattr(prompting, "_CONTEXT_WIDTHS", ())
    with pytest.raises(VQError, match="--clip"):
        prompting.random_prompts(load_dense(tiny_state_dict("flux")), ["a"], 0)


class Encoder:
    """A CLIP that is not 123 million weights large."""

    def tokenize(self, text: str) -> str:
        return f"tokens of {text}"

    def encode_from_tokens_scheduled(self, tokens: str) -> list:
        return [[tokens, {}]]


def test_encoders_encode_the_texts_and_the_empty_one():
    (prompt,) = prompting.encoded_prompts(Encoder(), ["a cat"], 3)
    assert prompt.positive == [["tokens of a cat", {}]]
    assert prompt.negative == [["tokens of ", {}]]


def test_unknown_types_of_text_encoders_are_listed():
    with pytest.raises(VQError, match="found 'nonsense', expected one of stable_diffusion, "):
        prompting.load_clip([], "nonsense")


def full_checkpoint(path) -> None:
    tensors = {PREFIX + key: tensor for key, tensor in tiny_state_dict("sd15").items()}
    layout = TAESD(latent_channels=4).state_dict()
    tensors |= {f"first_stage_model.{k}": 0.1 * torch.ones(t.shape) for k, t in layout.items()}
    save_file(tensors, path)


def test_a_full_checkpoint_brings_its_autoencoder(tmp_path):
    full_checkpoint(tmp_path / "full.safetensors")
    bench, note = bench_for(tmp_path / "full.safetensors", sampling(size=64), lambda: None)
    recording = bench.record(bench.load(tmp_path / "full.safetensors"))
    assert bench.decode(recording.latents).shape == (2, 64, 64, 3)
    assert note == files.RANDOM_CONDITIONING


def test_text_encoders_that_are_given_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(prompting, "load_clip", lambda paths, kind: Encoder())
    save_file(tiny_state_dict("flux"), tmp_path / "flux.safetensors")
    chosen = sampling(clip=[tmp_path / "clip.safetensors"])
    _, note = bench_for(tmp_path / "flux.safetensors", chosen, lambda: None)
    assert note is None


@pytest.mark.parametrize("coded", [False, True])
def test_a_bare_model_is_sampled_with_random_conditioning(tmp_path, family, coded):
    path = tmp_path / "bare.safetensors"
    if coded:
        checkpoint.save(path, random_vq_model(family))
    else:
        save_file(tiny_state_dict(family), path)
    bench, note = bench_for(path, sampling(size=64), lambda: None)
    recording = bench.record(bench.load(path))
    assert recording.latents.shape == (2, *FAMILIES[family].latent[1:])
    assert bench.decode(recording.latents) is None
    assert note == files.RANDOM_CONDITIONING
