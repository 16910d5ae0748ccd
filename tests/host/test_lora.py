"""LoRAs on a VQ model do what they do on the dense model that holds its decoded weights."""

import comfy.sd
import pytest
import torch
from comfy.model_patcher import LowVramPatch

from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from host.families import FAMILIES, random_vq_model
from host.loras import low_rank_lora
from host.sampling import load_dense, predict, relative_l2

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def case(request):
    """A family, its VQ model with a LoRA, and what the dense model with the LoRA predicts."""
    vq = random_vq_model(request.param)
    dense = load_dense(vq.decode(torch.float32))
    lora = low_rank_lora(dense)
    dense, _ = comfy.sd.load_lora_for_models(dense, None, lora, 0.8, 0)
    patched, _ = comfy.sd.load_lora_for_models(load(InMemory(vq)), None, lora, 0.8, 0)
    assert len(patched.patches) == len(dense.patches) == 6
    dense.patch_model(CPU)
    return request.param, patched, predict(dense, request.param)


def coded_layers(model) -> int:
    layers = (m for m in model.model.modules() if isinstance(m, CodedWeight))
    return sum(is_coded(m.weight) for m in layers)


def test_fully_loaded(case):
    family, model, expected = case
    before = coded_layers(model)
    model.patch_model(CPU)
    assert relative_l2(expected, predict(model, family)) < 1e-5
    model.unpatch_model(CPU)
    assert coded_layers(model) == before


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_partly_loaded(case, share):
    family, model, expected = case
    before = coded_layers(model)
    model.patch_model(CPU, lowvram_model_memory=max(1, int(share * model.model_size())))
    try:
        assert model.model.lowvram_patch_counter > 0
        assert relative_l2(expected, predict(model, family)) < 1e-5
        if share == 0:
            assert coded_layers(model) == before
    finally:
        model.unpatch_model(CPU)


def test_dynamic_vram_leaves_the_codes_alone(case):
    """Its patches would be written back into coded weights; they run beside them instead."""
    _, model, _ = case
    key, layer = next(iter(model.coded_layers.items()))
    layer.weight_lowvram_function = LowVramPatch(key, model.patches)
    for callback in model.get_all_callbacks("on_load_after"):
        callback(model, CPU, 0, False, False)
    assert layer.weight_lowvram_function is None and layer.weight_function == []
    assert layer.patches is model.made_patches()[key]
    model.unpatch_model(CPU)
    assert layer.patches is None
