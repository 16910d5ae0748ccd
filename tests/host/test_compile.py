"""A VQ model under torch.compile, as TorchCompileModel and other nodes compile it."""

import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch._dynamo.utils import counters

from comfy_vq.hosts.comfy.model.loader import InMemory, load
from host.families import FAMILIES, random_vq_model
from host.loras import low_rank_lora
from host.sampling import predict, relative_l2, sample


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def known_memory(monkeypatch):
    """On a CPU the host's attention asks the system for free memory, which no compiler can trace."""

    def free(device=None, torch_free_too=False):
        return (1 << 30, 1 << 30) if torch_free_too else 1 << 30

    monkeypatch.setattr(comfy.model_management, "get_free_memory", free)


def compiled_by_the_host(model, backend, **options):
    clone = model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(clone, backend=backend, **options)
    return clone


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_network_compiles_in_one_graph_once(family):
    model = load(InMemory(random_vq_model(family)))
    comfy.model_management.load_model_gpu(model)
    expected = [predict(model, family, seed) for seed in (1, 2)]
    network = model.model.diffusion_model
    model.model.diffusion_model = torch.compile(network, backend="aot_eager", fullgraph=True)
    for seed in (1, 2):
        assert torch.equal(predict(model, family, seed), expected[seed - 1])
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_samples_through_the_host_s_wrapper(family):
    model = load(InMemory(random_vq_model(family)))
    compiled = compiled_by_the_host(model, "aot_eager", fullgraph=True)
    expected = sample(model, family, steps=3)
    assert relative_l2(expected, sample(compiled, family, steps=3)) <= 1e-5
    graphs = counters["stats"]["unique_graphs"]
    assert graphs >= 1
    sample(compiled, family, steps=3, seed=2)
    assert counters["stats"]["unique_graphs"] == graphs
    assert torch.equal(sample(model, family, steps=3), expected)


def test_a_lora_is_compiled_along():
    model = load(InMemory(random_vq_model("flux")))
    patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 0.8, 0)
    expected = sample(patched, "flux")
    assert relative_l2(expected, sample(compiled_by_the_host(patched, "aot_eager"), "flux")) <= 1e-5
    assert relative_l2(expected, sample(model, "flux")) > 1e-3
    assert counters["stats"]["unique_graphs"] >= 1
