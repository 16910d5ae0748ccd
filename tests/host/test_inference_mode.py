"""The host runs nodes in torch's inference mode, but loads, unloads and trains out of it at times."""

import contextlib
import itertools

import comfy.model_management
import pytest
import torch

from comfy_vq.hosts.comfy.model.loader import InMemory, load
from host.families import random_vq_model
from host.sampling import sample

ORDERS = list(itertools.product((True, False), repeat=4))


def mode(inference: bool):
    return torch.inference_mode() if inference else contextlib.nullcontext()


@pytest.fixture(scope="module")
def vq():
    return random_vq_model("flux")


@pytest.mark.parametrize(
    ("loading", "sampling", "unloading", "again"),
    ORDERS,
    ids=["".join("io"[not inside] for inside in order) for order in ORDERS],
)
def test_unloaded_by_the_host_and_sampled_again(vq, loading, sampling, unloading, again):
    """``iioi`` is what "Unload models" in the interface does between two prompts."""
    with mode(loading):
        model = load(InMemory(vq))
    with mode(sampling):
        first = sample(model, "flux")
    with mode(unloading):
        comfy.model_management.unload_all_models()
    with mode(again):
        assert torch.equal(sample(model, "flux"), first)
