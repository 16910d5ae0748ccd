"""The demo's bench in the real ComfyUI."""

from __future__ import annotations

import comfy.taesd.taesd
import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq import checkpoint, codecs
from comfy_vq.demo import task
from comfy_vq.demo.with_comfyui import ComfyUIBench
from comfy_vq.evaluation import sqnr_db
from comfy_vq.evaluation.layers import layer_errors, layers_of
from comfy_vq.model import VQModel

CAPTIONS = ["a red circle above a blue square", "a green square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`dense`, coded as `vq`, decoded as `decoded`; an autoencoder with random weights."""
    folder = tmp_path_factory.mktemp("demo")
    dense = sd_model.state_dict(dtype=torch.float32)
    layers = {}
    for key in [k for k, t in dense.items() if t.ndim in (2, 4) and t.shape[1] % 8 == 0]:
        codec, bits = ("additive", 2) if "attn1.to_q" in key else ("int8", 8)
        coded = codecs.encode(dense[key], bits, codec, "fast")
        layers[key.removesuffix(".weight")] = coded
    rest = {k: t for k, t in dense.items() if k.removesuffix(".weight") not in layers}
    model = VQModel(layers, rest)
    save_file(dense, folder / "dense.safetensors")
    checkpoint.save(folder / "vq.safetensors", model)
    checkpoint.write_decoded(folder / "decoded.safetensors", model)
    generator = torch.Generator().manual_seed(0)
    layout = comfy.taesd.taesd.TAESD().state_dict()
    tensors = {k: 0.05 * torch.randn(t.shape, generator=generator) for k, t in layout.items()}
    tensors |= {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    save_file(tensors, folder / "autoencoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(comfyui, folder):
    return ComfyUIBench(comfyui, folder / "autoencoder.safetensors", CAPTIONS)


@pytest.fixture(scope="module")
def dense(bench, folder):
    return bench.load(folder / "dense.safetensors")


@pytest.fixture(scope="module")
def recording(bench, dense):
    return bench.record(dense)


def fidelity(bench, recording, model) -> float:
    return sqnr_db(recording.noise, bench.predict(model, recording))


def test_what_a_recording_holds(recording):
    steps = len(task.RECORDED)
    assert recording.noise.shape == (steps, 2, 2, *task.LATENT)
    assert recording.latents.shape == (2, *task.LATENT)
    assert len(recording.timesteps) == steps and recording.noise.isfinite().all()


def test_the_same_steps_are_recorded_as_in_diffusers(recording):
    """Which take every fiftieth of a thousand, from the second on."""
    stride = 1000 // task.STEPS
    expected = [1000 - stride * (step + 1) + 1 for step in task.RECORDED]
    assert list(recording.timesteps) == expected


def test_the_initial_noise_is_that_of_diffusers(recording):
    """One seeded draw for all prompts, which the network sees nearly as it is."""
    generator = torch.Generator().manual_seed(task.SEED)
    initial = torch.randn(2, *task.LATENT, generator=generator)
    first = recording.inputs[0]
    seen = first.x / (1 + first.sigma[..., None, None, None] ** 2).sqrt()
    assert torch.equal(first.x[0], first.x[1])
    assert torch.nn.functional.cosine_similarity(seen[0].flatten(), initial.flatten(), 0) > 0.9


def test_samples_and_predicts_what_it_recorded(bench, recording, dense):
    assert torch.equal(bench.sample(dense), recording.latents)
    assert fidelity(bench, recording, dense) > 100


def test_predictions_are_the_networks_with_and_without_the_caption(bench, recording, dense):
    """The network itself answers for latents that are shrunk as SD1.5's schedule does."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = float((1 - betas).cumprod(0)[int(recording.timesteps[0])])
    asked = recording.inputs[0]
    for number, context in enumerate(task.contexts(CAPTIONS)):
        with torch.inference_mode():
            expected = bench.network(dense)(
                kept**0.5 * asked.x[number],
                torch.full((2,), recording.timesteps[0]),
                context=context,
            )
        found = recording.noise[0, :, number]
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def test_a_vq_file_predicts_what_its_decoded_weights_do(bench, recording, folder):
    coded, decoded = (bench.load(folder / f"{name}.safetensors") for name in ("vq", "decoded"))
    assert fidelity(bench, bench.record(decoded), coded) > 100
    assert 5 < fidelity(bench, recording, coded) < 80


def test_layers_of_a_vq_file_have_errors_and_those_left_dense_have_none(
    bench, recording, dense, folder
):
    coded = bench.load(folder / "vq.safetensors")
    found = layer_errors(bench, dense, coded, recording)
    assert set(found) == set(layers_of(bench.network(dense)))
    assert found.pop("input_blocks.0.0") == 0  # four channels are not coded
    assert all(0 < error < 1 for error in found.values())
    additive = [error for name, error in found.items() if "attn1.to_q" in name]
    assert min(additive) > 100 * found["out.2"]  # 2 bits beside 8


def test_the_floor_rounds_weights_to_bfloat16(bench, recording, folder):
    assert 20 < fidelity(bench, recording, bench.floor(folder / "dense.safetensors")) < 80


def test_pictures(bench, recording):
    pictures = bench.decode(recording.latents)
    assert pictures.shape == (2, 64, 64, 3) and 0 <= pictures.min() <= pictures.max() <= 1
