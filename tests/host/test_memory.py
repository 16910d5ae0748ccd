"""What ComfyUI believes about the memory of a VQ model is true, and nothing goes dense unasked."""

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.model_management import VRAMState
from comfy_extras.nodes_model_merging import ModelMergeSimple

from benchmarks.adapters import adapter
from comfy_vq import checkpoint, codecs
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.model import Source, VQModel
from host.families import random_vq_model, random_weight
from host.families.basic import flux
from host.loras import low_rank_lora
from host.sampling import predict, relative_l2, sample

CPU = torch.device("cpu")
FAMILIES = ("sd15", "flux")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load(InMemory(random_vq_model(family)))


@pytest.fixture(scope="module")
def patched(model):
    """With LoRAs, whose thin matrices take memory of their own."""
    first, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 0.8, 0)
    return comfy.sd.load_lora_for_models(first, None, low_rank_lora(model, seed=2), 0.5, 0)[0]


@pytest.fixture(params=["plain", "LoRA"])
def either(request, model, patched):
    return model if request.param == "plain" else patched


def thin_bytes(patched, only=lambda layer: True):
    """Of the matrices that run beside weights."""
    made = patched.made_patches().items()
    chosen = [p.beside for key, p in made if p.beside and only(patched.coded_layers[key])]
    return sum(4 * beside.numel for beside in chosen)


def test_the_size_counts_what_runs_beside_the_weights(model, patched):
    assert thin_bytes(patched) > 0
    assert patched.model_size() == model.model_size() + thin_bytes(patched)
    assert patched.clone().clone().model_size() == patched.model_size()
    without = patched.clone()
    without.patches, without.patches_uuid = {}, None
    assert without.model_size() == model.model_size()


def test_loaded_completely(either):
    either.patch_model(CPU)
    assert either.loaded_size() == either.model_size()
    either.unpatch_model(CPU)
    assert either.loaded_size() == 0
    assert all(layer.patches is None for layer in either.coded_layers.values())


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8, 0.99])
def test_partly_loaded_at_any_budget(either, family, share):
    either.patch_model(CPU)
    whole = predict(either, family)
    either.unpatch_model(CPU)
    either.patch_model(CPU, lowvram_model_memory=int(share * either.model_size()))
    try:
        loaded = either.loaded_size() - thin_bytes(either)
        assert 0 <= loaded <= share * either.model_size()
        complete = (m for m in either.model.modules() if getattr(m, "comfy_patched_weights", False))
        assert loaded == sum(map(comfy.model_management.module_size, complete))
        assert torch.equal(predict(either, family), whole)
    finally:
        either.unpatch_model(CPU)


def test_partly_unloaded_and_loaded_again(either, family):
    either.patch_model(CPU)
    whole = predict(either, family)
    before = either.loaded_size()
    freed = either.partially_unload(CPU, either.model_size() // 2)
    assert freed >= either.model_size() // 2
    assert either.loaded_size() == before - freed
    assert torch.equal(predict(either, family), whole)
    either.partially_load(CPU, extra_memory=2 * either.model_size())
    assert either.loaded_size() == either.model_size()
    assert torch.equal(predict(either, family), whole)
    either.unpatch_model(CPU)


def test_codes_stay_codes_whatever_is_patched(model, family):
    """After all kinds of patches no layer holds a dense weight, nor does the host keep one aside."""
    key = next(iter(model.coded_layers)).removesuffix(".weight")
    shape = tuple(model.coded_layers[f"{key}.weight"].weight.shape)
    kinds = [adapter(kind, {key: shape}) for kind in ("lora", "dora", "loha", "diff")]
    patched = model
    for file in kinds:
        patched, _ = comfy.sd.load_lora_for_models(patched, None, file, 0.5, 0)
    (patched,) = ModelMergeSimple().merge(patched, load(InMemory(random_vq_model(family))), 0.5)
    sample(patched, family)
    assert all(is_coded(layer.weight) for layer in patched.coded_layers.values())
    assert not set(patched.backup) & set(patched.coded_layers)


def test_the_next_model_gets_its_own_patches_alone(model, patched, family):
    """Both MODELs share the layers; the host loads one after the other without unloading."""
    plain, with_lora = sample(model, family), sample(patched, family)
    assert relative_l2(plain, with_lora) > 1e-3
    assert torch.equal(sample(model, family), plain)
    assert torch.equal(sample(patched, family), with_lora)


def test_two_models_beside_each_other_while_the_host_frees_memory(monkeypatch):
    """It unloads both in part, one whole, all; each samples as before, and what is said is true."""
    models = [load(InMemory(random_vq_model(name))) for name in FAMILIES]
    models[1], _ = comfy.sd.load_lora_for_models(models[1], None, low_rank_lora(models[1]), 0.8, 0)
    expected = [sample(m, name) for m, name in zip(models, FAMILIES, strict=True)]
    total = sum(model.model_size() for model in models)
    for share in (0.1, 0.5, 0.9, 1.0):
        for model, name, latents in zip(models, FAMILIES, expected, strict=True):
            with monkeypatch.context() as patch:
                patch.setattr(comfy.model_management, "get_free_memory", lambda *_: 0)
                patch.setattr(comfy.model_management, "vram_state", VRAMState.HIGH_VRAM)
                comfy.model_management.free_memory(share * total, CPU)
            assert sum(m.loaded_size() for m in models) <= (1 - share) * total + 1
            assert torch.equal(sample(model, name), latents)
        for model in models:
            comfy.model_management.load_models_gpu([model])


def test_a_copy_for_another_card_is_coded_too(patched, family):
    """It is read anew from where the model came from, and carries the same patches."""
    expected = sample(patched, family)
    copy = patched.deepclone_multigpu(new_load_device=CPU)
    assert copy.model is not patched.model
    assert copy.model_size() == patched.model_size()
    assert {*copy.coded_layers} == {*patched.coded_layers}
    assert torch.equal(sample(copy, family), expected)
    matched = patched.clone()
    matched.set_additional_models("multigpu", [copy])
    changed, _ = comfy.sd.load_lora_for_models(matched, None, low_rank_lora(matched, seed=3), 1, 0)
    changed.match_multigpu_clones()
    (again,) = changed.get_additional_models_with_key("multigpu")
    assert again.model is copy.model
    assert torch.equal(sample(again, family), sample(changed, family))


def wide_flux() -> VQModel:
    """Large enough to be seen among all else that a process holds: 340 M weights."""
    network = flux(width=1536, depth=4, device="meta")
    layers: dict[str, codecs.VQWeight] = {}
    dense = {}
    for key, tensor in network.state_dict().items():
        if key.endswith(".weight") and tensor.ndim == 2:
            shape = tuple(tensor.shape)
            layers[key.removesuffix(".weight")] = random_weight("additive", 3, shape)
        else:
            dense[key] = torch.ones(tensor.shape)
    return VQModel(layers, dense, Source("wide flux", None, "", {}, {}), {})


PEAK = """
import sys
from pathlib import Path
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import find_comfyui
boot(find_comfyui(), cpu=True)
import comfy.model_management, comfy.sd, nodes, torch
sys.path.insert(0, "tests")
from benchmarks.step_memory import largest, reset_peaks
from benchmarks.sdxl_load import memory
from comfy_vq.hosts.comfy.model.loader import load_file
from host.loras import low_rank_lora
from host.sampling import sample

def peak(what):
    print(what, largest() - start, flush=True)

with torch.inference_mode():
    sample_tiny = torch.nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8))
    reset_peaks(torch.device("cpu"))
    start = memory()["VmRSS"]
    model = load_file(sys.argv[1])
    peak("load")
    sample(model, "flux")
    peak("sample")
    for seed in (1, 2):
        patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model, 16, 99, seed), 1.0, 0)
        sample(patched, "flux")
        peak("LoRA")
    print("size", model.model_size(), "thin", patched.model_size() - model.model_size())
    comfy.model_management.unload_all_models()
    sample(model, "flux")
    peak("again")
"""


def test_the_process_never_holds_the_dense_model(tmp_path, run_python):
    """Peaks of resident memory over load, sampling, LoRAs, unload and reload."""
    vq = wide_flux()
    path = tmp_path / "wide.safetensors"
    checkpoint.save(path, vq)
    printed = run_python(PEAK, path)
    print(printed)
    words = [line.split() for line in printed.splitlines()]
    peaks = {line[0]: int(line[1]) for line in words if len(line) == 2 and line[1].isdigit()}
    dense = sum(4 * weight.numel for weight in vq.layers.values())
    largest = max(4 * weight.numel for weight in vq.layers.values())
    (thin,) = [int(line[3]) for line in words if line[0] == "size"]
    assert vq.nbytes < dense / 8
    room = 100e6  # activations, and what libraries keep for later
    assert peaks["load"] < vq.nbytes + room
    assert peaks["sample"] < vq.nbytes + largest + room
    assert peaks["LoRA"] < vq.nbytes + largest + 3 * thin + room
    assert peaks["again"] < vq.nbytes + largest + 3 * thin + room
