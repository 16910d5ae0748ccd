"""A model, its text encoders and its autoencoder in one file."""

from pathlib import Path

import comfy.sd
import folder_paths
import pytest
import torch
from comfy.taesd.taesd import TAESD
from comfy_extras.nodes_model_merging import CheckpointSave
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.clip.encoders import load_clip_file
from comfy_vq.hosts.comfy.clip.quantizing import quantize_clip
from comfy_vq.hosts.comfy.files import folders
from comfy_vq.hosts.comfy.files.full_checkpoint import load_full
from comfy_vq.hosts.comfy.files.saving import save_clip, save_model
from comfy_vq.hosts.comfy.model.loader import InMemory, load, load_file, origin_of
from comfy_vq.model import VQModel
from host.encoders import clip_lora, decoded_clip, encode, random_clip, tiny_encoders
from host.families import random_vq_model, tiny_state_dict
from host.sampling import relative_l2, sample


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with tiny_encoders():
        yield


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def model():
    return load(InMemory(random_vq_model("sd15")))


@pytest.fixture(scope="module")
def dense_clip(tiny):
    return random_clip("sd1")


@pytest.fixture(scope="module")
def vq_clip(dense_clip):
    quantized, _ = quantize_clip(dense_clip, 4.0, "fast", "")
    return quantized


def autoencoder(latent_channels: int = 4, **metadata):
    generator = torch.Generator().manual_seed(0)
    empty = TAESD(latent_channels=latent_channels).state_dict()
    weights = {k: 0.1 * torch.randn(t.shape, generator=generator) for k, t in empty.items()}
    return comfy.sd.VAE(sd=weights, metadata=metadata or None)


@pytest.fixture(scope="module")
def vae():
    return autoencoder()


@pytest.fixture(scope="module")
def full(tiny, model, vq_clip, vae, tmp_path_factory):
    """The path of a file of all three."""
    folder = str(tmp_path_factory.mktemp("full"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "output_directory", folder)
        return save_model(model, "full", clip=vq_clip, vae=vae)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def decoded(vae, latents=None):
    generator = torch.Generator().manual_seed(3)
    return vae.decode(torch.randn((1, vae.latent_channels, 8, 8), generator=generator))


def test_all_three_come_back_as_they_were(full, model, vq_clip, vae):
    loaded_model, loaded_clip, loaded_vae = load_full(full)
    assert torch.equal(sample(loaded_model, "sd15"), sample(model, "sd15"))
    assert same(encode(loaded_clip), encode(vq_clip))
    assert torch.equal(decoded(loaded_vae), decoded(vae))
    assert origin_of(loaded_model) is not None and origin_of(loaded_clip.patcher) is not None
    assert loaded_model.model_size() == model.model_size()
    assert loaded_clip.patcher.model_size() == vq_clip.patcher.model_size()
    assert loaded_vae.model_size() == vae.model_size()


def test_a_dense_clip_is_saved_as_it_is(model, dense_clip, vae):
    path = save_model(model, "dense", clip=dense_clip, vae=vae)
    _, clip, _ = load_full(path)
    assert origin_of(clip.patcher) is None
    assert same(encode(clip), encode(dense_clip))
    assert not checkpoint.inspect(path).components["clip"].layers


def test_a_lora_on_a_dense_clip_is_baked_in(model, dense_clip, vae):
    _, patched = comfy.sd.load_lora_for_models(None, dense_clip, clip_lora(dense_clip), 0, 1.0)
    plain, expected = encode(dense_clip), encode(patched)
    _, clip, _ = load_full(save_model(model, "lora", clip=patched, vae=vae))
    assert relative_l2(expected["cond"], encode(clip)["cond"]) <= 1e-5
    assert relative_l2(plain["cond"], encode(clip)["cond"]) > 1e-3
    assert same(plain, encode(dense_clip)), "the input was changed"


def test_a_lora_on_a_vq_clip_is_refused(model, vq_clip, vae, output):
    _, patched = comfy.sd.load_lora_for_models(None, vq_clip, clip_lora(vq_clip), 0, 1.0)
    with pytest.raises(VQError, match="put the LoRA before VQ Quantize CLIP"):
        save_model(model, "a", clip=patched, vae=vae)
    assert not list(output.glob("*.safetensors"))


def test_the_frozen_node_takes_the_model_out_of_it(full, model, monkeypatch):
    read = []
    finite = checkpoint.reader.check_finite
    monkeypatch.setattr(
        checkpoint.reader,
        "check_finite",
        lambda path, where, tensor: (read.append(where), finite(path, where, tensor)),
    )
    loaded = load_file(full)
    assert torch.equal(sample(loaded, "sd15"), sample(model, "sd15"))
    assert read and not [where for where in read if "components." in where]


def test_text_encoders_can_be_taken_out_of_it(full, vq_clip):
    assert same(encode(load_clip_file(full)), encode(vq_clip))


def test_bits_per_weight_count_each_model_by_itself(full, model, vq_clip):
    header = checkpoint.inspect(full)
    assert header.bits_per_weight == origin_of(model).read().bits_per_weight
    clip = origin_of(vq_clip.patcher).read().model
    assert header.components["clip"].bits_per_weight == clip.bits_per_weight
    alone = save_model(model, "alone")
    assert checkpoint.inspect(alone).bits_per_weight == header.bits_per_weight


@pytest.mark.parametrize("held", ["clip", "vae"])
def test_half_a_full_checkpoint_says_what_is_missing(model, vq_clip, vae, held):
    path = save_model(model, "half", **{held: {"clip": vq_clip, "vae": vae}[held]})
    missing = {"clip": "vae", "vae": "clip"}[held]
    with pytest.raises(VQError, match=f"found model, {held}, expected .*: without {missing} it is"):
        load_full(path)
    assert load_file(path)


def test_text_encoders_alone_are_no_model(vq_clip):
    path = save_clip(vq_clip, "clip")
    with pytest.raises(
        VQError, match="found clip, expected a diffusion model; load it with Load VQ CLIP"
    ):
        load_file(path)


def test_a_file_without_text_encoders_is_no_clip(model):
    with pytest.raises(VQError, match="found a diffusion model, expected a file that holds clip"):
        load_clip_file(save_model(model, "model"))


def test_what_an_autoencoder_was_made_with_is_kept(model, vq_clip):
    """The host is told of it by the file's header or its own loader node, not by the weights."""
    vae = autoencoder(128, tae_latent_channels=128)
    vae.patcher.cached_patcher_init = (
        comfy.sd.load_vae_patcher,
        ("taef2.safetensors", {"tae_latent_channels": 128}, None),
    )
    _, _, loaded = load_full(save_model(model, "vae", clip=vq_clip, vae=vae))
    assert loaded.latent_channels == vae.latent_channels == 128


def test_an_autoencoder_that_this_host_takes_for_another_is_refused(full, output):
    component = checkpoint.load_component(full, "vae")
    component.about["model"] = "AutoencoderOfTomorrow"
    clip = checkpoint.load_component(full, "clip")
    path = output / "other.safetensors"
    checkpoint.save(path, checkpoint.load(full), components={"clip": clip, "vae": component})
    with pytest.raises(
        VQError, match="found 'AutoencoderOfTomorrow', of which this ComfyUI makes 'TAESD'"
    ):
        load_full(str(path))


def test_the_host_loads_each_anew(full):
    for patcher in (loaded := load_full(full))[0], loaded[1].patcher, loaded[2].patcher:
        load_again, arguments = patcher.cached_patcher_init
        fresh = load_again(*arguments, disable_dynamic=True)
        assert fresh.model is not patcher.model and type(fresh.model) is type(patcher.model)
        assert fresh.model_size() == patcher.model_size()


def test_core_saves_it_as_a_dense_checkpoint(full, output):
    model, clip, vae = load_full(full)
    saver = CheckpointSave()
    saver.output_dir = str(output)
    saver.save(model, clip, vae, "dense")
    path = str(output / "dense_00001_.safetensors")
    dense_model, dense_clip, dense_vae, _ = comfy.sd.load_checkpoint_guess_config(path)
    assert relative_l2(sample(model, "sd15"), sample(dense_model, "sd15")) <= 1e-5
    half = decoded_clip(checkpoint.load_component(full, "clip").model, "sd1")
    assert relative_l2(encode(half)["cond"], encode(dense_clip)["cond"]) <= 2e-3, "it loads in half"
    assert torch.equal(decoded(vae), decoded(dense_vae))


def test_a_clip_out_of_a_dense_checkpoint(model, vae, output):
    """It is not known by a type that a loader was asked for, but by its class."""
    weights = {f"model.diffusion_model.{k}": v for k, v in tiny_state_dict("sd15").items()}
    clip = random_clip("sd1")
    names = {k: k.replace("clip_l.", "cond_stage_model.") for k in clip.get_sd()}
    weights |= {names[k]: v for k, v in clip.get_sd().items()}
    weights |= {f"first_stage_model.{k}": v for k, v in vae.get_sd().items()}
    save_file({k: v.contiguous().clone() for k, v in weights.items()}, output / "ckpt.safetensors")
    _, dense, ckpt_vae, _ = comfy.sd.load_checkpoint_guess_config(str(output / "ckpt.safetensors"))
    quantized, report = quantize_clip(dense, 4.0, "fast", "")
    assert report.startswith("ckpt.safetensors: ")
    path = save_model(model, "full", clip=quantized, vae=ckpt_vae)
    _, clip, loaded_vae = load_full(path)
    assert same(encode(clip), encode(quantized))
    assert torch.equal(decoded(ckpt_vae), decoded(loaded_vae))
    assert checkpoint.inspect(path).components["vae"].source.name == "ckpt.safetensors"


def test_the_drop_downs_list_files_by_what_they_hold(tmp_path, monkeypatch, model, vq_clip, full):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    known = {name: ([str(folder)], {".safetensors"}) for name in ("checkpoints", "vq")}
    known |= {name: ([], {".safetensors"}) for name in ("text_encoders", "diffusion_models")}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    (folder / "full.safetensors").write_bytes(Path(full).read_bytes())
    checkpoint.save(folder / "model.safetensors", origin_of(model).read())
    clip = {"clip": origin_of(vq_clip.patcher).read()}
    checkpoint.save(folder / "clip.safetensors", VQModel({}, {}), components=clip)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    listed = {
        name: {"full.safetensors", "model.safetensors", "clip.safetensors"}
        & set(folders.vq_files(kind))
        for name, kind in vars(folders).items()
        if isinstance(kind, folders.Kind)
    }
    assert listed == {
        "MODELS": {"full.safetensors", "model.safetensors"},
        "ENCODERS": {"full.safetensors", "clip.safetensors"},
        "FULL": {"full.safetensors"},
    }
