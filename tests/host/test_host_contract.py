"""What of the host is overridden, and that it is what the host believes it to be."""

import inspect

import comfy.model_base
import pytest
from comfy.model_patcher import ModelPatcher, ModelPatcherDynamic

from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.hosts.comfy.model.ops import CodedWeight
from comfy_vq.hosts.comfy.model.patcher import HoldsCodes
from host.families import FAMILIES, random_vq_model

HOST_CLASSES = (ModelPatcher, ModelPatcherDynamic)
OVERRIDDEN = sorted(
    name
    for name, member in vars(HoldsCodes).items()
    if inspect.isfunction(member) and hasattr(ModelPatcher, name) and not name.startswith("__")
)


@pytest.mark.parametrize("method", OVERRIDDEN)
@pytest.mark.parametrize("host", HOST_CLASSES, ids=lambda host: host.__name__)
def test_what_is_overridden_takes_what_the_host_passes(host, method):
    theirs = inspect.signature(getattr(host, method)).parameters
    ours = inspect.signature(getattr(HoldsCodes, method)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    defaults = {name: parameter.default for name, parameter in theirs.items()}
    assert {name: ours[name].default for name in theirs} == defaults


def test_loading_is_the_hosts():
    """Other extensions failed with each change of it."""
    assert OVERRIDDEN
    assert not {"load", "partially_load", "patch_model", "clone", "detach"} & set(OVERRIDDEN)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_model_is_the_hosts(family):
    model = load(InMemory(random_vq_model(family)))
    assert type(model.model) is getattr(comfy.model_base, FAMILIES[family].host_class)
    network = model.model.diffusion_model
    assert type(network).__module__.startswith("comfy.ldm.")
    assert isinstance(model, ModelPatcher)
    ours = [m for m in network.modules() if type(m).__module__.startswith("comfy_vq.")]
    assert any(isinstance(layer, CodedWeight) for layer in ours)
    assert not any(list(layer.children()) for layer in ours)  # single layers, no networks
