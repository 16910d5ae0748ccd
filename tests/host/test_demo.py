"""The demo's bench in the real ComfyUI takes the steps that the one in diffusers takes."""

from __future__ import annotations

import comfy.taesd.taesd
import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq.demo import task
from comfy_vq.demo.with_comfyui import comfyui_bench

CAPTIONS = ["a red circle above a blue square", "a green square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`dense.safetensors`, and an autoencoder, with random weights."""
    folder = tmp_path_factory.mktemp("demo")
    save_file(sd_model.state_dict(dtype=torch.float32), folder / "dense.safetensors")
    generator = torch.Generator().manual_seed(0)
    layout = comfy.taesd.taesd.TAESD().state_dict()
    tensors = {k: 0.05 * torch.randn(t.shape, generator=generator) for k, t in layout.items()}
    tensors |= {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    save_file(tensors, folder / "autoencoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(comfyui, folder):
    return comfyui_bench(comfyui, folder / "autoencoder.safetensors", CAPTIONS)


@pytest.fixture(scope="module")
def recording(bench, folder):
    return bench.record(bench.load(folder / "dense.safetensors"))


def test_the_same_steps_are_recorded_as_in_diffusers(recording):
    """Which take every fiftieth of a thousand, from the second on."""
    stride = 1000 // task.STEPS
    expected = [1000 - stride * (step + 1) + 1 for step in task.RECORDED]
    assert list(recording.timesteps) == expected


def test_the_initial_noise_is_that_of_diffusers(bench, recording):
    """A seed for each prompt; the network sees nearly the noise alone."""
    assert bench.seeds == [task.SEED, task.SEED + 1]
    for seed, calls in zip(bench.seeds, recording.inputs, strict=True):
        initial = torch.randn(task.LATENT, generator=torch.Generator().manual_seed(seed))
        seen = calls[0].x[0].flatten()
        assert torch.nn.functional.cosine_similarity(seen, initial.flatten(), 0) > 0.9


def test_answers_with_and_without_the_caption(recording):
    assert recording.noise.shape == (len(task.RECORDED), 2, 2, *task.LATENT)
    with_caption, without = recording.noise[:, :, 0], recording.noise[:, :, 1]
    assert not torch.equal(with_caption, without)


def test_pictures(bench, recording):
    pictures = bench.decode(recording.latents)
    assert pictures.shape == (2, 64, 64, 3) and 0 <= pictures.min() <= pictures.max() <= 1
