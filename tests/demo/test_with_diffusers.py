"""The demo's bench in diffusers, on a network with random weights."""

import math

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers")

from diffusers import AutoencoderTiny

import sd_model
from comfy_vq import checkpoint, codecs
from comfy_vq.demo import task
from comfy_vq.demo.with_diffusers import DiffusersBench, noise_schedule
from comfy_vq.evaluation import sqnr_db
from comfy_vq.evaluation.layers import layer_errors, layers_of
from comfy_vq.hosts.diffusers import CodedLayer
from comfy_vq.model import VQModel

CAPTIONS = ["a red circle above a blue square", "a green square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`dense`, coded as `vq`, decoded as `decoded`; an autoencoder with random weights."""
    folder = tmp_path_factory.mktemp("demo")
    dense = sd_model.state_dict(32, 768)
    coded = {
        key.removesuffix(".weight"): codecs.encode(dense.pop(key), 8, "int8", "fast")
        for key in [k for k, t in dense.items() if t.ndim in (2, 4) and t.shape[1] % 8 == 0]
    }
    model = VQModel(coded, dense)
    checkpoint.save(folder / "vq.safetensors", model)
    checkpoint.write_decoded(folder / "decoded.safetensors", model)
    save_file(sd_model.state_dict(32, 768), folder / "dense.safetensors")
    torch.manual_seed(0)
    tensors = {}
    for name, tensor in AutoencoderTiny().state_dict().items():
        part, _, number, leaf = name.split(".", 3)
        tensors[f"taesd_{part}.{int(number) + (part == 'decoder')}.{leaf}"] = tensor
    save_file(tensors, folder / "autoencoder.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(folder):
    return DiffusersBench(folder / "autoencoder.safetensors", CAPTIONS)


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
    assert list(recording.timesteps) == sorted(recording.timesteps, reverse=True)
    assert len(recording.timesteps) == steps and recording.noise.isfinite().all()


def test_samples_and_predicts_what_it_recorded(bench, recording, dense):
    assert torch.equal(bench.sample(dense), recording.latents)
    assert fidelity(bench, recording, dense) == math.inf


def test_predictions_are_the_networks_with_and_without_the_caption(bench, recording, dense):
    context, empty = task.contexts(CAPTIONS)
    asked = recording.inputs[0]
    with torch.no_grad():
        toward = dense(asked.latents, asked.timestep, context).sample
        without = dense(asked.latents, asked.timestep, empty).sample
    torch.testing.assert_close(recording.noise[0, :, 0], toward, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(recording.noise[0, :, 1], without, rtol=1e-4, atol=1e-4)


def test_the_recorded_steps_are_those_of_the_sampler(recording):
    schedule = noise_schedule()
    schedule.set_timesteps(task.STEPS)
    expected = [schedule.timesteps[step].item() for step in task.RECORDED]
    assert list(recording.timesteps) == expected


def test_a_vq_file_predicts_what_its_decoded_weights_do(bench, folder):
    coded, decoded = (bench.load(folder / f"{name}.safetensors") for name in ("vq", "decoded"))
    recorded = bench.record(decoded)
    assert any(isinstance(module, CodedLayer) for module in bench.network(coded).modules())
    assert fidelity(bench, recorded, coded) > 100


def test_layers_of_a_vq_file_have_errors_and_those_left_dense_have_none(
    bench, folder, dense, recording
):
    found = layer_errors(bench, dense, bench.load(folder / "vq.safetensors"), recording)
    assert set(found) == set(layers_of(dense))
    assert found.pop("conv_in") == 0  # four channels are not coded
    assert all(0 < error < 1e-3 for error in found.values())


def test_the_floor_rounds_weights_to_bfloat16(bench, folder, recording):
    floor = bench.floor(folder / "dense.safetensors")
    assert floor.dtype == torch.float32
    assert 20 < fidelity(bench, recording, floor) < 80


def test_pictures(bench, recording):
    pictures = bench.decode(recording.latents)
    assert pictures.shape == (2, 64, 64, 3) and 0 <= pictures.min() <= pictures.max() <= 1


def test_a_gguf_file_is_the_model_that_it_decodes_to(bench, dense, folder, recording):
    gguf = pytest.importorskip("gguf")
    path = folder / "dense.gguf"
    writer = gguf.GGUFWriter(path, "sd1")
    for key, tensor in sd_model.state_dict(32, 768).items():
        writer.add_tensor(key, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert bench.size(path).bits_per_weight == 32
    predicted = bench.predict(bench.load(path), recording)
    assert sqnr_db(recording.noise, predicted) > 60
