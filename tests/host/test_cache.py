"""VQ Quantize Model finds what it made before, in this process and after a restart of the server."""

import os
import shutil
from pathlib import Path

import comfy.sd
import pytest
import torch
from safetensors.torch import save_file

from comfy_server import ComfyServer, PromptRefused
from comfy_vq import checkpoint, codecs
from comfy_vq.cache import Cache
from comfy_vq.hosts.comfy import encoding
from comfy_vq.hosts.comfy.cache import host_cache
from comfy_vq.hosts.comfy.files.saving import save_model
from comfy_vq.hosts.comfy.model.loader import origin_of
from comfy_vq.hosts.comfy.quantizing import quantize_model
from host.families import tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, sample


class CodedAnew(Exception):
    pass


@pytest.fixture(scope="module")
def weights():
    return tiny_state_dict("flux")


@pytest.fixture(scope="module")
def first(weights, tmp_path_factory):
    """The cache after a first run, and what that gave."""
    cache = Cache(tmp_path_factory.mktemp("cache"), 10**9)
    return cache, *quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)


@pytest.fixture
def only_hits(monkeypatch):
    """Coding anything raises ``CodedAnew``."""

    def encode(*_, **__):
        raise CodedAnew

    monkeypatch.setattr(codecs, "encode", encode)


def test_a_second_run_codes_nothing(first, weights, only_hits):
    cache, model, report = first
    again, said = quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)
    before, after = origin_of(model).read(), origin_of(again).read()
    assert before.decode().keys() == after.decode().keys()
    assert all(torch.equal(before.decode()[k], t) for k, t in after.decode().items())
    assert torch.equal(sample(model, "flux"), sample(again, "flux"))
    assert "from the cache, quantized 20" in said and "from the cache" not in report
    assert report.split("\n\n")[1] == said.split("\n\n")[1]  # the plan


def test_what_is_saved_is_the_same(first, weights, only_hits):
    cache, model, _ = first
    again, _ = quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)
    one, two = (Path(save_model(m, "diffusion_models/x")).read_bytes() for m in (model, again))
    assert one == two


def test_what_nodes_attached_is_taken_over(first, weights, only_hits):
    dense = load_dense(weights)
    dense.set_model_sampler_cfg_function(lambda args: args["cond"])
    again, _ = quantize_model(dense, 4.0, "fast", "", cache=first[0])
    assert "sampler_cfg_function" in again.model_options


def test_a_clone_that_was_sampled_with_is_the_same_model(first, weights, only_hits):
    model = load_dense(weights)
    sample(model, "flux")
    quantize_model(model.clone(), 4.0, "fast", "", cache=first[0])


@pytest.mark.parametrize(
    "how", [(4.5, "fast", ""), (4.0, "balanced", ""), (4.0, "fast", "final_layer.linear")]
)
def test_another_request_is_coded_anew(first, weights, only_hits, how):
    with pytest.raises(CodedAnew):
        quantize_model(load_dense(weights), *how, cache=first[0])


def test_a_changed_weight_is_coded_anew(first, weights, only_hits):
    changed = {key: tensor.clone() for key, tensor in weights.items()}
    changed["img_in.bias"][0] += 1e-3
    with pytest.raises(CodedAnew):
        quantize_model(load_dense(changed), 4.0, "fast", "", cache=first[0])


def test_a_lora_before_it_is_coded_anew(first, weights, only_hits):
    model = load_dense(weights)
    patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 0.5, 0)
    with pytest.raises(CodedAnew):
        quantize_model(patched, 4.0, "fast", "", cache=first[0])


def test_a_lora_of_another_strength_is_coded_anew(weights, tmp_path, monkeypatch):
    model, cache = load_dense(weights), Cache(tmp_path, 10**9)
    lora = low_rank_lora(model)
    for strength in (0.5, 0.7, 0.5):
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, strength, 0)
        _, report = quantize_model(patched, 4.0, "fast", "", cache=cache)
    assert len(list(tmp_path.iterdir())) == 2 and "from the cache" in report


def test_without_a_cache_weights_are_not_read_twice(weights, only_hits, monkeypatch):
    def key_of(*_, **__):
        raise AssertionError("hashed for nothing")

    monkeypatch.setattr(encoding, "key_of", key_of)
    with pytest.raises(CodedAnew):
        quantize_model(load_dense(weights), 4.0, "fast", "")


def test_looking_can_be_interrupted(first, weights, monkeypatch):
    def key_of(*_, on_tensor, **__):
        comfy.model_management.interrupt_current_processing()
        on_tensor("img_in.weight")

    monkeypatch.setattr(encoding, "key_of", key_of)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        quantize_model(load_dense(weights), 4.0, "fast", "", cache=first[0])


def test_a_damaged_entry_is_made_anew(first, weights, tmp_path):
    source, *_ = first
    cache = Cache(tmp_path / "copy", 10**9)
    shutil.copytree(source.folder, cache.folder)
    (entry,) = cache.folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1000])
    again, report = quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)
    assert "from the cache" not in report
    assert checkpoint.load(entry).nbytes == origin_of(again).read().nbytes


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are in use")
def test_a_model_outlives_its_entry(weights, tmp_path):
    cache = Cache(tmp_path / "cache", 10**9)
    first, _ = quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)
    again, _ = quantize_model(load_dense(weights), 4.0, "fast", "", cache=cache)
    shutil.rmtree(cache.folder)
    for model in (first, again):
        rebuild, arguments = model.cached_patcher_init
        assert rebuild(*arguments).model_size() == model.model_size()
        assert checkpoint.is_vq(save_model(model, "diffusion_models/outlives"))


def test_it_lies_among_the_hosts_own_files(base, monkeypatch):
    monkeypatch.delenv("COMFY_VQ_CACHE", raising=False)
    assert host_cache().folder == base / "user" / "__comfy_vq" / "cache"
    monkeypatch.setenv("COMFY_VQ_CACHE", "off")
    assert host_cache() is None


@pytest.fixture(scope="module")
def restart(comfyui, weights, tmp_path_factory):
    """Starts a server on one and the same base directory; the one before ends first."""
    base, running = tmp_path_factory.mktemp("restarted"), []

    def start():
        stop()
        shutil.rmtree(base / "custom_nodes", ignore_errors=True)
        server = ComfyServer(comfyui, base)
        running.append(server)
        return server.wait_until_up()

    def stop():
        while running:
            running.pop().stop()

    (base / "models" / "diffusion_models").mkdir(parents=True)
    save_file(weights, base / "models" / "diffusion_models" / "tiny.safetensors")
    yield start
    stop()


def prompt(bits, **more):
    inputs = {"model": ["1", 0], "bits": bits, "effort": "fast", "exclude": "", **more}
    load = {"unet_name": "tiny.safetensors", "weight_dtype": "default"}
    save = {"model": ["2", 0], "filename_prefix": "vq/x", "embed_workflow": False}
    return {
        "1": {"class_type": "UNETLoader", "inputs": load},
        "2": {"class_type": "VQQuantizeModel", "inputs": inputs},
        "3": {"class_type": "SaveVQCheckpoint", "inputs": save},
    }


@pytest.mark.one_host(reason="three servers in a row; test_workflows runs one in every version")
def test_over_http(restart):
    """All of it on two servers, since one takes seconds to start."""
    server = restart()

    def run(*args, **more):
        record = server.run(prompt(*args, **more))
        report = record["outputs"]["2"]["text"][0]
        return report, Path(record["outputs"]["3"]["text"][0]).read_bytes()

    report, saved = run(4.0)  # as stored before there was a text for the bits
    assert "quantized in" in report and "GB of graphics memory" in report
    assert "from the cache" not in run(4, cache=False)[0]
    for bad in ("lots", 9, "fit 4", ""):
        with pytest.raises(PromptRefused, match="expected 2 to 8 bits per weight"):
            server.post_prompt(prompt(bad))

    server = restart()
    again, saved_again = run("4.0", cache=True)
    linked = prompt(["4", 0]) | {"4": {"class_type": "PrimitiveFloat", "inputs": {"value": 4.0}}}
    assert "from the cache" in server.run(linked)["outputs"]["2"]["text"][0]
    assert "from the cache, quantized 20" in again and saved_again == saved
    assert "asked for 8)" in run("fit 9000 GB")[0]
    (entry,) = (p for p in (server.base / "user" / "__comfy_vq" / "cache").iterdir()
                if checkpoint.inspect(p).plan["target"] == 4)  # fmt: skip
    assert checkpoint.inspect(entry).bits_per_weight == pytest.approx(4, abs=0.02)
