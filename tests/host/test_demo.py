"""The demo's sampler in the real ComfyUI."""

from __future__ import annotations

import comfy.taesd.taesd
import pytest
import torch
from safetensors.torch import save_file

import sd_model
from comfy_vq import checkpoint, codecs
from comfy_vq.demo import conditioning, with_comfyui
from comfy_vq.demo.with_comfyui import ComfyUISampler
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
def sampler(comfyui, folder):
    return ComfyUISampler(comfyui, folder / "autoencoder.safetensors")


def predict(sampler, path, timestep=500):
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    return sampler.predict(
        sampler.load(path), latents, noise, timestep, conditioning.embed(CAPTIONS)
    )


def test_a_vq_file_predicts_what_its_decoded_weights_do(sampler, folder):
    coded = predict(sampler, folder / "vq.safetensors")
    decoded = predict(sampler, folder / "decoded.safetensors")
    assert torch.linalg.norm(coded - decoded) <= 1e-5 * torch.linalg.norm(decoded)
    assert torch.linalg.norm(coded - predict(sampler, folder / "dense.safetensors")) > 0.01


def test_predicts_the_noise_and_not_the_picture(sampler, folder):
    """What the network itself answers for latents noised by SD1.5's schedule."""
    found = predict(sampler, folder / "decoded.safetensors", timestep=900)
    network = sampler.load(folder / "decoded.safetensors").model.diffusion_model
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = float((1 - betas).cumprod(0)[900])
    generator = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    noisy = kept**0.5 * latents + (1 - kept) ** 0.5 * noise
    with torch.inference_mode():
        context = conditioning.embed(CAPTIONS)
        expected = network(noisy, torch.full((2,), 900.0), context=context)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)


def test_samples_a_picture_per_caption(sampler, folder, monkeypatch):
    monkeypatch.setattr(with_comfyui, "STEPS", 2)
    model = sampler.load(folder / "vq.safetensors")
    context, empty = conditioning.embed(CAPTIONS), conditioning.embed([""])
    first, again, other = (sampler.sample(model, context, empty, seed) for seed in (1, 1, 2))
    assert first.shape == (2, 4, 8, 8)
    assert torch.equal(first, again) and not torch.equal(first, other)
    pictures = sampler.decode(first)
    assert pictures.shape == (2, 64, 64, 3) and 0 <= pictures.min() <= pictures.max() <= 1
    assert sampler.encode(pictures).shape == (2, 4, 8, 8)
