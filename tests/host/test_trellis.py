"""A model of which some layers are coded as a trellis, saved to a file and run in ComfyUI."""

from dataclasses import replace

import pytest
import torch

from comfy_vq import checkpoint, codecs
from comfy_vq.hosts.comfy.model.compute_mode import compute_as, mode_of
from comfy_vq.hosts.comfy.model.layout import coded, is_coded
from comfy_vq.hosts.comfy.model.loader import load_file, origin_of
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from comfy_vq.hosts.comfy.quantizing import quantize_model
from host.families import random_vq_model, tiny_state_dict
from host.sampling import load_dense, relative_l2, sample


@pytest.fixture(scope="module")
def mixed():
    """Every third layer that a trellis takes is one."""
    model = random_vq_model("sd15")
    layers = dict(model.layers)
    able = [name for name, w in layers.items() if codecs.get("trellis").supports(w.shape)]
    for n, name in enumerate(able[::3]):
        dense = layers[name].decode().contiguous()
        layers[name] = codecs.encode(dense, 2 + n % 4, "trellis", effort="fast")
    return replace(model, layers=layers)


@pytest.fixture(scope="module")
def path(mixed, tmp_path_factory):
    path = tmp_path_factory.mktemp("trellis") / "mixed.safetensors"
    checkpoint.save(path, mixed)
    return path


@pytest.fixture(scope="module")
def model(path):
    return load_file(path)


def test_layers_hold_what_the_file_holds(model, mixed):
    modules = [m for m in model.model.modules() if isinstance(m, CodedWeight)]
    held = [coded(m.weight).codec for m in modules if is_coded(m.weight)]
    assert sorted(held) == sorted(weight.codec for weight in mixed.layers.values())
    assert set(held) == {"additive", "int8", "trellis"}


def test_samples_as_the_dense_model_of_its_decoded_weights(model, mixed):
    dense = load_dense(mixed.decode(torch.float32))
    assert relative_l2(sample(dense, "sd15"), sample(model, "sd15")) <= 1e-5


def test_a_trellis_computes_in_int8_as_the_others_do(path, model):
    exact, found = sample(model, "sd15"), sample(compute_as(load_file(path), "int8"), "sd15")
    assert 0 < relative_l2(exact, found) < 0.05


def test_the_layers_of_a_trellis_are_measured_and_chosen(path):
    model = compute_as(load_file(path), "int8")
    sample(model, "sd15")
    chosen = {choice.name for choice in mode_of(model.model).choices if choice.int8}
    modules = model.model.diffusion_model.named_modules()
    paths = {
        name
        for name, m in modules
        if isinstance(m, CodedWeight) and is_coded(m.weight) and coded(m.weight).codec == "trellis"
    }
    assert chosen & paths and chosen - paths


def test_a_node_quantizes_by_the_codec_asked_for():
    dense = load_dense(tiny_state_dict("sd3"))
    model, report = quantize_model(dense, 4.0, "fast", "", codec="trellis")
    vq = origin_of(model).read()
    used = {weight.codec for weight in vq.layers.values()}
    assert "trellis" in used <= {"trellis", "additive", "int8"}
    assert vq.bits_per_weight == pytest.approx(4.0, abs=0.02)
    assert f"{vq.bits_per_weight:.3f} bits per weight" in report
    decoded = load_dense(vq.decode(torch.float32))
    assert relative_l2(sample(decoded, "sd3"), sample(model, "sd3")) <= 1e-5
