"""Who copies weights out of a VQ model's state dict gets weights; who counts gets what is stored."""

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy_kitchen.tensor import QuantizedTensor
from torch import nn

from comfy_vq.hosts.comfy.model.layout import decode, is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from comfy_vq.hosts.comfy.model.whole import whole_weight
from host.families import FAMILIES, random_vq_model
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def vq(request):
    return random_vq_model(request.param)


@pytest.fixture
def model(vq):
    return load(InMemory(vq))


def coded_layers(module: nn.Module) -> dict[str, CodedWeight]:
    named = module.named_modules()
    return {n: m for n, m in named if isinstance(m, CodedWeight) and is_coded(m.weight)}


def test_a_part_of_the_network_lists_weights(model, vq):
    network = model.model.diffusion_model
    dense = load_dense(vq.decode(torch.float32)).model.diffusion_model.state_dict()
    listed = network.state_dict()
    assert list(listed) == list(dense)
    for key, tensor in listed.items():
        assert tensor.shape == dense[key].shape and tensor.dtype == dense[key].dtype
        assert torch.equal(tensor.dequantize() if is_coded(tensor) else tensor, dense[key])


def test_the_whole_model_and_single_layers_list_what_is_stored(model):
    assert not any(isinstance(t, QuantizedTensor) for t in model.model.state_dict().values())
    for layer in coded_layers(model.model.diffusion_model).values():
        assert not any(isinstance(t, QuantizedTensor) for t in layer.state_dict().values())


def test_nodes_find_weights_and_no_pieces(model, vq):
    dense = load_dense(vq.decode(torch.float32))
    assert set(model.model_state_dict()) == set(dense.model_state_dict())
    prefix = "diffusion_model."
    assert set(model.model_state_dict(prefix)) == set(dense.model_state_dict(prefix))


def test_codes_are_shared_and_nothing_is_decoded(model):
    listed = model.model.diffusion_model.state_dict()
    for name, layer in coded_layers(model.model.diffusion_model).items():
        assert listed[f"{name}.weight"].data_ptr() == layer.weight.data_ptr()
    assert model.model_size() == comfy.model_management.module_size(model.model)


def test_a_dense_module_copies_them(model):
    name, layer = next(iter(coded_layers(model.model.diffusion_model).items()))
    parent = model.model.diffusion_model.get_submodule(name.rpartition(".")[0])
    state_dict = parent.state_dict()
    shapes = {key: nn.Parameter(torch.empty(t.shape)) for key, t in state_dict.items()}
    dense = nn.Module()
    for key, empty in shapes.items():
        dense.register_parameter(key.replace(".", "_"), empty)
    dense.load_state_dict({key.replace(".", "_"): tensor for key, tensor in state_dict.items()})
    key = f"{name.rpartition('.')[2]}.weight".replace(".", "_")
    assert torch.equal(getattr(dense, key), decode(layer.weight, torch.float32))


def test_patches_are_in_them(vq):
    model, dense = load(InMemory(vq)), load_dense(vq.decode(torch.float32))
    lora = low_rank_lora(dense)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)
    expected, _ = comfy.sd.load_lora_for_models(dense, None, lora, 0.8, 0)
    assert len(patched.patches) == len(expected.patches) == 6
    cpu = torch.device("cpu")
    patched.patch_model(cpu)
    expected.patch_model(cpu)
    listed, wanted = patched.model_state_dict(), expected.model_state_dict()
    for key in patched.patches:
        assert isinstance(listed[key], QuantizedTensor)
        assert relative_l2(wanted[key], listed[key].dequantize()) <= 1e-6
        moved = listed[key].to(torch.float64).to("cpu")
        assert relative_l2(wanted[key], moved.dequantize().float()) <= 1e-6
    patched.unpatch_model(cpu)
    plain = model.model_state_dict()
    for key in patched.patches:
        assert relative_l2(wanted[key], plain[key].dequantize()) > 1e-3


def test_the_host_s_buffers_keep_patches(vq):
    """It gathers the tensors of a weight in one buffer and makes the weight of that."""
    model = load(InMemory(vq))
    patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 0.8, 0)
    patched.patch_model(torch.device("cpu"))
    layer = patched.coded_layers[next(iter(patched.patches))]
    weight = whole_weight(layer)
    names, context = weight.__tensor_flatten__()
    inner = {name: getattr(weight, name) for name in names}
    again = type(weight).__tensor_unflatten__(inner, context, weight.shape, weight.stride())
    assert torch.equal(again.dequantize(), weight.dequantize())
    assert not torch.equal(weight.dequantize(), layer.weight.dequantize())
    patched.unpatch_model(torch.device("cpu"))
