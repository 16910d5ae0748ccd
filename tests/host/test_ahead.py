"""Weights decoded ahead, in the real model: nothing that it computes changes."""

import comfy.ops
import comfy.sd
import pytest
import torch
from comfy.model_management import InterruptProcessingException, interrupt_current_processing

from comfy_vq import ahead
from comfy_vq.hosts.comfy.model.loader import InMemory, keep_decoded, load
from comfy_vq.hosts.comfy.model.ops import CodedWeight, VQOperations
from comfy_vq.kernels import scratch
from host.families import FAMILIES, random_vq_model
from host.loras import low_rank_lora
from host.sampling import predict, relative_l2, sample

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def vq(family):
    return random_vq_model(family)


@pytest.fixture
def in_batches(vq, monkeypatch):
    """As if this CPU were a graphics card that decodes in batches; sizes of those launched.

    The buffer holds the largest weight and little more, so that there are several batches.
    """
    scratch.release()
    monkeypatch.setattr(scratch, "LIMIT", 5 * max(w.numel for w in vq.layers.values()))
    launched, real = [], ahead.kernels.batches

    def recorded(items):
        return [lambda: launched.append(len(items)), *real(items)]

    monkeypatch.setattr(ahead.kernels, "batches", recorded)
    monkeypatch.setattr(ahead.kernels, "decodes_in_batches", lambda dtype, device: True)
    yield launched
    scratch.release()


def test_samples_the_same_bits(family, vq, monkeypatch, in_batches):
    model = load(InMemory(vq))
    with monkeypatch.context() as patched:
        patched.setattr(CodedWeight, "_decoded_ahead", lambda self, input: None)
        expected = sample(model, family, steps=3)
    assert not in_batches
    assert torch.equal(sample(model, family, steps=3), expected)
    assert max(in_batches) > 1
    in_batches.clear()
    assert torch.equal(sample(model, family, steps=3), expected)
    assert sum(in_batches) >= 3 * (len(vq.layers) - 1)


def slots(model):
    coded = [m for m in model.model.modules() if isinstance(m, CodedWeight)]
    return [layer.slot for layer in coded if layer.slot is not None]


def test_spare_memory_changes_no_bit(family, vq):
    expected = sample(load(InMemory(vq)), family, steps=3)
    model = keep_decoded(load(InMemory(vq)), 1)
    assert torch.equal(sample(model.clone(), family, steps=3), expected)
    kept = [slot for slot in slots(model) if slot.group and slot.group.kept]
    assert kept and sum(slot.dense.nbytes for slot in kept) <= 10**6
    again, arguments = model.cached_patcher_init
    assert {slot.ahead.spare for slot in slots(again(*arguments))} == {10**6}


def test_weights_that_move_give_spare_memory_back(family, vq):
    model = keep_decoded(load(InMemory(vq)), 1)
    sample(model, family, steps=3)
    assert any(slot.dense is not None for slot in slots(model))
    model.model.to(CPU)
    assert not any(slot.dense is not None for slot in slots(model))


def test_no_spare_memory_by_default(vq):
    model = load(InMemory(vq))
    assert keep_decoded(model, 0) is model
    assert {slot.ahead.spare for slot in slots(model)} == {0}


@pytest.mark.parametrize("full", [True, False], ids=["fully loaded", "partly loaded"])
def test_a_lora_reaches_every_layer(family, vq, in_batches, full):
    model = load(InMemory(vq))
    model.patch_model(CPU)
    plain = [predict(model, family) for _ in range(3)]  # an order is learned without the LoRA
    model.unpatch_model(CPU)
    lora = low_rank_lora(model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)
    patched.patch_model(CPU, **({} if full else {"lowvram_model_memory": 1}))
    found = [predict(patched, family) for _ in range(3)]
    patched.unpatch_model(CPU)
    expected, _ = comfy.sd.load_lora_for_models(load(InMemory(vq)), None, lora, 0.8, 0)
    expected.patch_model(CPU)
    assert relative_l2(predict(expected, family), found[0]) < 1e-5
    expected.unpatch_model(CPU)
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])
    assert relative_l2(plain[0], found[0]) > 1e-3
    model.patch_model(CPU)
    assert torch.equal(predict(model, family), plain[2])
    model.unpatch_model(CPU)


def test_it_can_be_cancelled(family, vq, in_batches):
    model = load(InMemory(vq))
    sample(model, family)
    interrupt_current_processing()
    with pytest.raises(InterruptProcessingException):
        sample(model, family)


@pytest.mark.parametrize("kind", ["GroupNorm", "LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_norms_are_the_host_s(kind, dtype):
    arguments = (4, 8) if kind == "GroupNorm" else (8,)
    ours, theirs = (
        getattr(operations, kind)(*arguments, dtype=torch.float32)
        for operations in (VQOperations, comfy.ops.manual_cast)
    )
    for layer in (ours, theirs):
        for parameter in layer.parameters():
            parameter.requires_grad_(False).copy_(torch.arange(8.0))
    input = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(ours(input), theirs(input))
    ours.weight_function = theirs.weight_function = [lambda weight: weight * 2]
    assert torch.equal(ours(input), theirs(input))
    assert not torch.equal(ours(input), ours._uncast(input.float()).to(dtype))
