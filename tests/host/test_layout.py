"""A coded weight inside the host's QuantizedTensor."""

import dataclasses
import gc
import weakref

import pytest
import torch
from torch.nn import Parameter

from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.model.layout import (
    PendingWeight,
    decode,
    is_coded,
    pending,
    pieces,
    settled,
)
from host.families import random_weight

SHAPES = [(48, 128), (16, 8, 3, 3)]


@pytest.fixture(params=SHAPES, ids=str)
def coded(request):
    return random_weight("additive", 3, request.param)


@pytest.fixture
def held(coded):
    return Parameter(settled(pending(coded), torch.float16), requires_grad=False)


def test_reports_the_logical_weight(coded, held):
    assert (tuple(held.shape), held.dtype, held.numel()) == (
        coded.shape,
        torch.float16,
        coded.numel,
    )
    assert is_coded(held) and not is_coded(torch.zeros(2))


def test_decodes_as_the_codec_does(coded, held):
    assert torch.equal(decode(held, torch.float32), coded.decode(torch.float32))
    assert torch.equal(held.dequantize(), coded.decode(torch.float16))
    assert torch.equal(held.float() + 0, coded.decode(torch.float32))  # + : an unknown operation


def test_scalar_rows_need_no_codebooks():
    coded = random_weight("int8", 8, (6, 10))
    held = settled(pending(coded), torch.float32)
    assert torch.equal(held.clone().dequantize(), coded.decode())
    assert sorted(pieces(held, "w")) == ["w", "w_codes"]


def test_copies_share_the_codebook_set(coded, held):
    for copied in (held.detach(), held.clone(), held.to(torch.bfloat16), torch.empty_like(held)):
        assert copied.params.codebooks is coded.codebooks.codebooks
    assert held.clone().params.scale.data_ptr() != held.params.scale.data_ptr()


def test_one_copy_of_a_set_per_device(held):
    there = [held.to("meta"), held.clone().to("meta")]
    assert there[0].params.codebooks is there[1].params.codebooks
    assert there[0].params.codebooks.device.type == "meta"


def test_layers_streamed_one_by_one_find_the_copy(coded, held):
    there = weakref.ref(held.to("meta").params.codebooks)
    assert there() is held.to("meta").params.codebooks
    shared = dataclasses.replace(coded.codebooks, codebooks=coded.codebooks.codebooks.clone())
    held = settled(pending(dataclasses.replace(coded, codebooks=shared)), torch.float16)
    there = weakref.ref(held.to("meta").params.codebooks)
    del held, shared
    gc.collect()
    assert there() is None


def test_copying_in_place_takes_everything_but_the_dtype(coded, held):
    other = settled(pending(random_weight("additive", 3, coded.shape, seed=1)), torch.float32)
    other.copy_(held)
    assert torch.equal(other.dequantize(), coded.decode(torch.float32))


def test_survives_flattening_as_offloading_does_it(coded, held):
    names, context = held.__tensor_flatten__()
    assert sorted(names) == ["_param_codebooks", "_param_scale", "_qdata"]
    pieces = {name: getattr(held, name).clone() for name in names}
    again = type(held).__tensor_unflatten__(pieces, context, None, None)
    assert torch.equal(again.dequantize(), coded.decode(torch.float16))


def test_slices_and_copies_into_dense_parameters_are_decoded(coded):
    weight = pending(coded)
    assert torch.equal(weight[2:5], coded.decode()[2:5])
    dense = torch.zeros(coded.shape)
    dense.copy_(weight)
    assert torch.equal(dense, coded.decode())
    assert isinstance(weight, PendingWeight)


def test_coding_anew_is_refused(held):
    with pytest.raises(VQError, match="put VQ Quantize Model after it"):
        held.requantize_from_float(torch.zeros(held.shape))
