"""The ruler's bench in the real ComfyUI: what it records, replays, loads and counts."""

from __future__ import annotations

import math
import sys

import comfy.sd
import gguf
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.checkpoint.gguf import load_gguf
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db
from comfy_vq.hosts.comfy.evaluation.bench import ComfyBench, Prompt, Settings
from comfy_vq.hosts.comfy.evaluation.sizes import size_of
from host.evaluation.gguf_files import write_gguf
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, sample
from host.testing_nodes import conditioning

STEPS = 3


def bench_for(family: str, cfg=4.0, steps=STEPS, **options) -> ComfyBench:
    chosen = FAMILIES[family]

    def embed(text: str) -> list:
        return conditioning(text, chosen.context, 16, chosen.pooled)

    prompts = [Prompt(text, embed(text), embed(""), seed) for seed, text in enumerate(("a", "b"))]
    latent = {"samples": torch.zeros(chosen.latent)}
    return ComfyBench(prompts, Settings(latent, steps, cfg), **options)


@pytest.fixture(scope="module", params=["flux", "sd15", "wan"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def files(family, tmp_path_factory):
    """A VQ model, what it decodes to, and that with some noise on its weights."""
    folder = tmp_path_factory.mktemp(family)
    vq = random_vq_model(family)
    checkpoint.save(folder / "vq.safetensors", vq)
    dense = vq.decode(torch.float32)
    save_file(dense, folder / "dense.safetensors")
    for name, share in (("noisy", 0.01), ("noisier", 0.1)):
        generator = torch.Generator().manual_seed(1)
        noisy = {
            key: tensor + share * tensor.std() * torch.randn(tensor.shape, generator=generator)
            for key, tensor in dense.items()
            if tensor.numel() > 1
        }
        save_file({**dense, **noisy}, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def bench(family):
    return bench_for(family)


@pytest.fixture(scope="module")
def recording(bench, files):
    return bench.record(bench.load(files / "dense.safetensors"))


def fidelity(bench, recording, path) -> float:
    return sqnr_db(recording.noise, bench.predict(bench.load(path), recording))


def test_a_vq_file_predicts_what_its_decoded_weights_do(bench, recording, files):
    assert fidelity(bench, recording, files / "vq.safetensors") > 100


def test_a_model_predicts_what_it_predicted_before(bench, recording, files):
    assert fidelity(bench, recording, files / "dense.safetensors") == math.inf


def test_noise_on_the_weights_shows(bench, recording, files):
    noisy, noisier = (
        fidelity(bench, recording, files / f"{n}.safetensors") for n in ("noisy", "noisier")
    )
    assert noisier < noisy < 100


def test_what_a_recording_holds(recording, family):
    latent = FAMILIES[family].latent
    assert recording.noise.shape == (STEPS, 2, 2, *latent[1:])
    assert recording.latents.shape == (2, *latent[1:])
    assert len(recording.timesteps) == STEPS
    assert list(recording.timesteps) == sorted(recording.timesteps, reverse=True)
    assert torch.isfinite(recording.noise).all()


def test_samples_what_it_recorded(bench, recording, files):
    model = bench.load(files / "dense.safetensors")
    assert torch.equal(bench.sample(model), recording.latents)


def test_predictions_are_what_the_network_answers(family):
    """Flow models answer with the velocity, those of Stable Diffusion with the noise."""
    bench = bench_for(family)
    model = load_dense(tiny_state_dict(family))
    answers = []
    hook = bench.network(model).register_forward_hook(lambda *a: answers.append(a[2].clone()))
    recording = bench.record(model)
    hook.remove()
    # The host runs the negative conditioning first, both in one batch.
    network = torch.stack(answers).unflatten(0, (2, STEPS)).transpose(0, 1).flip(2)
    assert sqnr_db(network, recording.noise) > 80


def test_samples_as_ksampler_does():
    chosen, model = FAMILIES["flux"], load_dense(tiny_state_dict("flux"))
    generator = torch.Generator().manual_seed(1)
    context = torch.randn((1, 16, chosen.context), generator=generator)
    extra = {"pooled_output": torch.randn((1, chosen.pooled), generator=generator)}
    prompt = Prompt("", [[context, extra]], [[-context, extra]], 1)
    settings = Settings({"samples": torch.zeros(chosen.latent)}, 2, 4.0)
    assert torch.equal(ComfyBench([prompt], settings).sample(model), sample(model, "flux"))


@pytest.mark.parametrize(("steps", "recorded"), [(3, 3), (20, 8)])
def test_keeps_about_eight_steps(steps, recorded):
    bench = bench_for("flux", steps=steps)
    recording = bench.record(load_dense(tiny_state_dict("flux")))
    assert len(recording.timesteps) == len(recording.noise) == recorded


@pytest.mark.parametrize("sampler", ["heun", "euler_ancestral", "dpmpp_2m_sde", "uni_pc", "ddim"])
def test_samplers_of_all_kinds(sampler):
    """Those that ask twice in a step, add noise of their own, or look back."""
    chosen, model = FAMILIES["sd15"], load_dense(tiny_state_dict("sd15"))
    prompt = Prompt("", conditioning("a", chosen.context), conditioning("", chosen.context), 5)
    settings = Settings({"samples": torch.zeros(chosen.latent)}, 6, 4.0, sampler, "normal")
    bench = ComfyBench([prompt], settings)
    recording = bench.record(model)
    assert torch.equal(bench.sample(model), recording.latents)
    assert sqnr_db(recording.noise, bench.predict(model, recording)) == math.inf
    assert list(recording.timesteps) == sorted(recording.timesteps, reverse=True)


def test_without_guidance_there_is_one_prediction():
    bench = bench_for("flux", cfg=1.0)
    recording = bench.record(load_dense(tiny_state_dict("flux")))
    assert recording.noise.shape[:3] == (STEPS, 2, 1)


def test_conditionings_of_different_lengths():
    """The host runs them one by one then."""
    chosen, model = FAMILIES["flux"], load_dense(tiny_state_dict("flux"))
    long, short = (conditioning("a", chosen.context, n, chosen.pooled) for n in (16, 4))
    settings = Settings({"samples": torch.zeros(chosen.latent)}, STEPS, 4.0)
    swapped = []
    for positive, negative in ((long, short), (short, long)):
        bench = ComfyBench([Prompt("", positive, negative, 0)], settings)
        recording = bench.record(model)
        assert sqnr_db(recording.noise, bench.predict(model, recording)) == math.inf
        swapped.append(recording.noise[0, 0])
    assert sqnr_db(swapped[0], swapped[1].flip(0)) > 100


def halved(model):
    clone = model.clone()
    halve = lambda run, *args, **options: 0.5 * run(*args, **options)
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "halve", halve)
    return clone


def patched(model):
    clone, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 1.0, 0)
    return clone


@pytest.mark.parametrize("changed", [halved, patched])
def test_what_nodes_attached_to_a_candidate_acts(changed):
    bench, model = bench_for("flux"), load_dense(tiny_state_dict("flux"))
    recording = bench.record(model)
    assert sqnr_db(recording.noise, bench.predict(changed(model), recording)) < 60
    assert sqnr_db(recording.noise, bench.predict(model, recording)) == math.inf


def test_a_call_runs_the_network_on_one_recorded_step():
    bench, model = bench_for("flux"), load_dense(tiny_state_dict("flux"))
    recording, seen = bench.record(model), []
    hook = bench.network(model).register_forward_hook(lambda *a: seen.append(a[2]))
    bench.call(model, recording, 1)
    hook.remove()
    (answer,) = seen
    assert sqnr_db(recording.noise[1, 0].flip(0), answer) > 80


def test_pictures_need_an_autoencoder(recording, bench):
    assert bench.decode(recording.latents) is None
    layout = TAESD(latent_channels=4).state_dict()
    vae = comfy.sd.VAE(sd={key: 0.1 * torch.ones(t.shape) for key, t in layout.items()})
    pictures = bench_for("sd15", vae=vae).decode(torch.randn(2, 4, 8, 8))
    assert pictures.shape == (2, 64, 64, 3) and pictures.dtype == torch.float32
    assert 0 <= pictures.min() <= pictures.max() <= 1


def test_every_evaluation_is_reported_and_may_stop():
    done = []
    bench = bench_for("flux", on_call=lambda: done.append(1))
    recording = bench.record(load_dense(tiny_state_dict("flux")))
    bench.predict(load_dense(tiny_state_dict("flux")), recording)
    assert len(done) == 2 * 2 * STEPS

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench_for("flux", on_call=stop).sample(load_dense(tiny_state_dict("flux")))


def test_batches_are_refused():
    with pytest.raises(VQError, match="batch of 2"):
        ComfyBench([], Settings({"samples": torch.zeros(2, 4, 8, 8)}, 2, 1.0))


@pytest.mark.parametrize("names", [("eular", "simple"), ("euler", "simpel")])
def test_unknown_samplers_and_schedulers_are_refused(names):
    with pytest.raises(VQError, match="expected one of .*simple|expected one of .*euler"):
        ComfyBench([], Settings({"samples": torch.zeros(1, 4, 8, 8)}, 2, 1.0, *names))


def numel(family: str) -> int:
    return sum(tensor.numel() for tensor in tiny_state_dict(family).values())


def test_size_of_a_vq_file(bench, files):
    header = checkpoint.inspect(files / "vq.safetensors")
    size = bench.size(files / "vq.safetensors")
    assert (size.nbytes, size.numel) == (header.nbytes, header.numel)
    assert size_of(bench.load(files / "vq.safetensors")) == size


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_size_of_a_dense_file(tmp_path, family, prefix):
    """Of a full checkpoint, the diffusion model's part."""
    weights = tiny_state_dict(family, torch.float16)
    tensors = {prefix + key: tensor for key, tensor in weights.items()}
    if prefix:
        tensors["first_stage_model.conv.weight"] = torch.ones(3, 3)
    save_file(tensors, tmp_path / "dense.safetensors")
    size = bench_for(family).size(tmp_path / "dense.safetensors")
    assert (size.bits_per_weight, size.numel) == (16, numel(family))


def scaled_fp8(weights: dict) -> dict:
    """Scaled float8 as the host's own checkpoints hold it."""
    stored = dict(weights, scaled_fp8=torch.zeros(2, dtype=torch.float8_e4m3fn))
    for key in [k for k, t in weights.items() if k.endswith(".weight") and t.ndim == 2]:
        if "blocks" in key:
            scale = weights[key].abs().max() / 448
            stored[key] = (weights[key] / scale).to(torch.float8_e4m3fn)
            stored[key.replace(".weight", ".scale_weight")] = scale
    return stored


def packed_nvfp4(weights: dict) -> dict:
    """Two weights to a byte, a scale for every 16 of them and one for all."""
    from comfy_kitchen.tensor import QuantizedTensor

    stored, name = dict(weights), "double_blocks.0.img_mlp.0"
    weight = QuantizedTensor.from_float(weights[f"{name}.weight"], "TensorCoreNVFP4Layout")
    stored |= weight.state_dict(f"{name}.weight")
    record = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    return {**stored, f"{name}.comfy_quant": record}


@pytest.mark.parametrize("form", [scaled_fp8, packed_nvfp4])
def test_the_hosts_own_formats(tmp_path, form):
    """Size is all that is stored over what it stands for: packed weights count as many."""
    weights = tiny_state_dict("flux")
    stored, path, bench = form(weights), tmp_path / "native.safetensors", bench_for("flux")
    save_file(stored, path)
    assert 10 < fidelity(bench, bench.record(load_dense(weights)), path) < 60
    size = bench.size(path)
    assert size.numel == numel("flux")
    assert size.nbytes == sum(tensor.nbytes for tensor in stored.values())


def test_size_of_a_model_in_a_graph(family):
    model = load_dense(tiny_state_dict(family))
    size = size_of(model)
    assert (size.bits_per_weight, size.numel) == (32, numel(family))


def test_the_floor_rounds_weights_to_bfloat16(bench, files, recording):
    floor = bench.floor(files / "dense.safetensors")
    assert floor.model_dtype() == torch.bfloat16
    assert 20 < sqnr_db(recording.noise, bench.predict(floor, recording)) < 100


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize(
    ("name", "bits", "least_db"), [("F16", 16, 50), ("Q8_0", 8.5, 30), ("Q4_0", 4.5, 5)]
)
def test_gguf_files(tmp_path, family, name, bits, least_db):
    weights = tiny_state_dict(family)
    path = tmp_path / f"{name}.gguf"
    write_gguf(path, weights, gguf.GGMLQuantizationType[name])
    bench = bench_for(family)
    recording = bench.record(load_dense(weights))
    assert least_db < fidelity(bench, recording, path) < least_db + 40
    size = bench.size(path)
    assert size.numel == numel(family)
    assert bits < size.bits_per_weight < 32


def test_gguf_tensors_keep_names_and_shapes(tmp_path):
    weights = tiny_state_dict("wan")
    write_gguf(tmp_path / "a.gguf", weights, gguf.GGMLQuantizationType.Q8_0)
    tensors = load_gguf(tmp_path / "a.gguf")
    assert {k: t.shape for k, t in tensors.items()} == {k: t.shape for k, t in weights.items()}
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.float32}


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(VQError, match=r"a\.gguf: .*pip install gguf"):
        load_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize("length", [6, 40, 400, 100_000])
def test_a_damaged_gguf_file_is_one_clear_error(tmp_path, length):
    path = tmp_path / "whole.gguf"
    write_gguf(path, tiny_state_dict("flux"), gguf.GGMLQuantizationType.Q8_0)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        VQError, match=r"cut\.gguf: file: found .*, expected a whole GGUF file; copy"
    ):
        bench_for("flux").load(cut)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.safetensors", None, "no such file"),
        ("broken.safetensors", b"12345678" * 9, "cannot read it"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VQError, match=f"{name}: .*{message}"):
        bench_for("flux").load(tmp_path / name)


def test_a_file_without_a_diffusion_model(tmp_path):
    save_file({"x.weight": torch.zeros(4, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(VQError, match="recognizes no diffusion model"):
        bench_for("flux").load(tmp_path / "x.safetensors")
