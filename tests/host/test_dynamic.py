"""VQ models under the host's DynamicVRAM loader, as far as that runs without a graphics card.

The host turns it off on a CPU, because its virtual memory needs a card's driver. Here its loader runs
all the same, with that memory left out: everything about patches, clones, forced loads and unloads is
the host's own code; layers then bring their weights as those of a partly loaded model do.
"""

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy_aimdo.host_buffer
import pytest
import torch

from benchmarks.adapters import adapter
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.hosts.comfy.model.patcher import HoldsCodes
from host.families import random_vq_model
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample

CPU = torch.device("cpu")


class NoBuffer:
    """Pinned memory that is never filled."""

    size = 0

    def __init__(self, *_):
        pass

    def truncate(self, *_, **__):
        pass


class Dynamic(comfy.model_patcher.ModelPatcherDynamic):
    """The host's, but for the virtual memory."""

    def __new__(cls, *_, **__):
        return object.__new__(cls)

    def _vbar_get(self, create=False):
        return None

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        return self.restore_loaded_backups()  # all that the host does without it


@pytest.fixture(autouse=True)
def dynamic(monkeypatch):
    monkeypatch.setattr(comfy_aimdo.host_buffer, "HostBuffer", NoBuffer)
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    with torch.inference_mode():  # as the host runs nodes
        yield
        comfy.model_management.unload_all_models()


@pytest.fixture(params=["sd15", "flux"])
def family(request):
    return request.param


@pytest.fixture
def vq(family):
    return random_vq_model(family)


@pytest.fixture
def dense(vq, monkeypatch):
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    model = load_dense(vq.decode(torch.float32))
    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Dynamic)
    return model


def with_lora(model, kind="lora"):
    if kind == "lora":
        file = low_rank_lora(model)
    else:
        names = comfy.lora.model_lora_keys_unet(model.model, {})
        modules = dict(model.model.named_modules())
        shapes = {
            name: tuple(modules[key.removesuffix(".weight")].weight.shape)
            for name, key in names.items()
            if key in modules_with_queries(modules)
        }
        file = adapter(kind, shapes)
    return comfy.sd.load_lora_for_models(model, None, file, 0.8, 0)[0]


def modules_with_queries(modules):
    return {f"{name}.weight" for name in modules if name.endswith((".to_q", "img_mlp.0"))}


def coded(model):
    return {key for key, layer in model.coded_layers.items() if is_coded(layer.weight)}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_adapters(vq, dense, family, kind):
    model = load(InMemory(vq))
    assert model.is_dynamic() and isinstance(model, HoldsCodes)
    found = sample(with_lora(model, kind), family)
    assert relative_l2(sample(with_lora(dense, kind), family), found) <= 1e-4
    assert relative_l2(sample(dense, family), found) > 1e-3
    assert relative_l2(sample(dense, family), sample(model, family)) <= 1e-5


def test_large_weights_stay_coded_and_small_ones_come_back(vq, family):
    """The host loads modules of up to 16 KiB for good, and dense; unloaded, all are coded again."""
    model = with_lora(load(InMemory(vq)))
    everything = coded(model)
    sample(model, family)
    small = everything - coded(model)
    sizes = comfy.model_management.module_size
    modules = dict(model.model.named_modules())
    assert coded(model)
    comfy.model_management.unload_all_models()
    assert coded(model) == everything
    assert all(sizes(modules[key.removesuffix(".weight")]) <= 16 * 1024 for key in small)
    assert model.loaded_size() == 0
    assert all(layer.patches is None for layer in model.coded_layers.values())


def test_unloaded_and_loaded_again(vq, family):
    model = with_lora(load(InMemory(vq)))
    before = sample(model, family)
    comfy.model_management.free_memory(1e30, CPU)
    assert torch.equal(sample(model, family), before)


def test_models_without_and_with_a_lora_in_turn(vq, family):
    model = load(InMemory(vq))
    patched = with_lora(model)
    plain, changed = sample(model, family), sample(patched, family)
    assert relative_l2(plain, changed) > 1e-3
    assert torch.equal(sample(model, family), plain)
    assert torch.equal(sample(patched, family), changed)


def test_a_clone_that_is_not_dynamic_is_read_anew_and_coded(vq, family):
    """As torch.compile, hooks and copies for other cards ask for it."""
    model = with_lora(load(InMemory(vq)))
    clone = model.clone(disable_dynamic=True)
    assert not clone.is_dynamic() and isinstance(clone, HoldsCodes)
    assert clone.model is not model.model
    assert origin_of(clone) is origin_of(model)
    assert coded(clone) == coded(model)
    # Small weights, which the host loads dense, have the LoRA in them there and beside them here.
    assert relative_l2(sample(clone, family), sample(model, family)) <= 1e-5
    assert clone.model_size() == model.model_size()
