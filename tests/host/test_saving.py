"""Saving a VQ MODEL: our node's files, and what core's own save nodes make of one."""

import json
import os
import time

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from comfy.cli_args import args
from comfy_extras.nodes_model_merging import CheckpointSave, ModelSave
from safetensors import safe_open
from safetensors.torch import load_file as load_safetensors

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.files import folders
from comfy_vq.hosts.comfy.files.saving import save_model
from comfy_vq.hosts.comfy.model import loader
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.hosts.comfy.quantizing import quantize_model
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def metadata(path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_quantize_save_load_sample(output, family):
    bits = 2.5 if family == "sd15" else 4.0
    dense = load_dense(tiny_state_dict(family))
    quantized, _ = quantize_model(dense, bits, "fast", "")
    path = save_model(quantized, "diffusion_models/tiny")
    assert path == str(output / "diffusion_models" / "tiny_00001_.safetensors")
    loaded = loader.load_file(path)
    assert loaded.model_size() == quantized.model_size()
    assert torch.equal(sample(loaded, family), sample(quantized, family))


def test_numbers_its_files_and_embeds_the_workflow(output):
    model = load(InMemory(random_vq_model("flux")))
    prompt, workflow = {"1": {"class_type": "X"}}, {"nodes": []}
    first = save_model(model, "a", prompt, {"workflow": workflow})
    second = save_model(model, "a")
    assert [os.path.basename(p) for p in (first, second)] == [
        "a_00001_.safetensors",
        "a_00002_.safetensors",
    ]
    assert json.loads(metadata(first)["workflow"]) == workflow
    assert json.loads(metadata(first)["prompt"]) == prompt
    assert not {"workflow", "prompt"} & set(metadata(second))


def test_disable_metadata_is_honoured(output, monkeypatch):
    monkeypatch.setattr(args, "disable_metadata", True)
    path = save_model(load(InMemory(random_vq_model("flux"))), "a", {"1": {}}, {"workflow": {}})
    assert not {"workflow", "prompt"} & set(metadata(path))


def test_a_loaded_model_can_be_saved_again(output):
    vq = random_vq_model("flux")
    checkpoint.save(output / "first.safetensors", vq)
    again = save_model(loader.load_file(str(output / "first.safetensors")), "again")
    assert torch.equal(
        checkpoint.load(again).layers["img_in"].tensors["codes"],
        vq.layers["img_in"].tensors["codes"],
    )


def test_a_dense_model_is_refused_with_advice(output):
    with pytest.raises(VQError, match="put VQ Quantize Model before"):
        save_model(load_dense(tiny_state_dict("flux")), "a")


def test_a_patched_model_is_refused_with_advice(output):
    model = load(InMemory(random_vq_model("flux")))
    patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 1.0, 0)
    with pytest.raises(VQError, match="put the LoRA before VQ Quantize Model"):
        save_model(patched, "a")


@pytest.fixture
def outside(output, tmp_path_factory):
    """A folder that must stay empty, to which ``output/link`` and ``output/2/link`` lead."""
    folder = tmp_path_factory.mktemp("outside")
    (output / "link").symlink_to(folder)
    (output / time.strftime("%Y")).mkdir()
    (output / time.strftime("%Y") / "link").symlink_to(folder)
    return folder


@pytest.mark.parametrize(
    "prefix",
    ["../x", "..", "a/../../x", "/tmp/x", "link/x", "link/new/x", "link/../../x", "%year%/link/x",
     "a\0b"],
)  # fmt: skip
def test_a_prefix_that_leads_outside_is_refused(output, outside, prefix):
    before = sorted(output.rglob("*")), sorted(output.parent.iterdir())
    with pytest.raises(VQError) as error:
        save_model(load(InMemory(random_vq_model("flux"))), prefix)
    assert str(error.value).startswith(f"{output}: filename_prefix: found {prefix!r}, ")
    assert "expected a folder inside the output folder; choose" in str(error.value)
    assert (sorted(output.rglob("*")), sorted(output.parent.iterdir())) == before
    assert not os.listdir(outside)


def test_links_within_the_output_folder_and_one_to_it_are_followed(output, tmp_path_factory):
    (output / "real").mkdir()
    (output / "link").symlink_to(output / "real")
    model = load(InMemory(random_vq_model("flux")))
    save_model(model, "link/x")
    assert os.listdir(output / "real") == ["x_00001_.safetensors"]
    linked = tmp_path_factory.mktemp("linked") / "output"
    linked.symlink_to(output)
    folder_paths.output_directory = str(linked)
    save_model(model, "real/x")
    assert len(os.listdir(output / "real")) == 2


@pytest.mark.parametrize("loaded", ["never", "partly", "fully"])
@pytest.mark.parametrize("with_lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_core_saves_the_decoded_model(output, family, with_lora, loaded):
    vq = random_vq_model(family)
    model, dense = load(InMemory(vq)), load_dense(vq.decode(torch.float32))
    if with_lora:
        lora = low_rank_lora(dense)
        model, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)
        dense, _ = comfy.sd.load_lora_for_models(dense, None, lora, 0.8, 0)
    comfy.model_management.load_models_gpu([dense], force_full_load=True)
    expected = dense.model.diffusion_model.state_dict()
    cpu = torch.device("cpu")
    if loaded == "fully":
        model.patch_model(cpu)
    elif loaded == "partly":
        model.patch_model(cpu, lowvram_model_memory=model.model_size() // 2)
    saved = model.state_dict_for_saving()
    saved = {k.removeprefix("model.diffusion_model."): v.to("cpu") for k, v in saved.items()}
    model.unpatch_model(cpu)
    assert set(saved) == set(expected)
    assert all(relative_l2(expected[k], saved[k]) < 1e-6 for k in expected)


def test_core_nodes_write_files_that_core_loads(output):
    vq = random_vq_model("flux")
    node = ModelSave()
    node.output_dir = str(output)
    node.save(load(InMemory(vq)), "diffusion_models/dense")
    path = output / "diffusion_models" / "dense_00001_.safetensors"
    stored = load_safetensors(path)
    decoded = vq.decode(torch.float32)
    assert all(torch.equal(stored[f"model.diffusion_model.{k}"], decoded[k]) for k in decoded)
    assert (
        relative_l2(
            sample(load(InMemory(vq)), "flux"),
            sample(comfy.sd.load_diffusion_model(str(path)), "flux"),
        )
        < 1e-5
    )
    assert CheckpointSave.save.__code__.co_names[0] == "save_checkpoint"  # the same path


def test_folders_that_the_user_mapped_stay(tmp_path, monkeypatch):
    mapped = {"vq": ([str(tmp_path)], set())}  # as extra_model_paths.yaml makes it
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", mapped)
    folders.register()
    paths, extensions = mapped["vq"]
    ours = os.path.join(folder_paths.models_dir, "vq")
    saved = os.path.join(folder_paths.get_output_directory(), "text_encoders")
    assert paths == [str(tmp_path), ours, saved]
    assert extensions == {".safetensors"}


def test_files_are_told_by_their_headers(output, base):
    folder = base / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    folders.register()
    other = base / "models" / "vq"
    other.mkdir(exist_ok=True)
    vq = random_vq_model("flux")
    checkpoint.save(folder / "a.safetensors", vq)
    checkpoint.save(other / "b.safetensors", vq)
    (folder / "junk.safetensors").write_bytes(b"no safetensors file")
    torch.save({}, folder / "c.pt")
    assert folders.vq_files() == ["a.safetensors", "b.safetensors"]
    assert folders.path_of("b.safetensors") == str(other / "b.safetensors")
    with pytest.raises(VQError, match="junk.safetensors: file: found another kind of file"):
        folders.path_of("junk.safetensors")
    with pytest.raises(VQError, match="gone.safetensors: file: found no such file"):
        folders.path_of("gone.safetensors")
    before = folders.fingerprint(str(folder / "a.safetensors"))
    checkpoint.save(folder / "a.safetensors", random_vq_model("wan"))
    assert folders.fingerprint(str(folder / "a.safetensors")) != before
