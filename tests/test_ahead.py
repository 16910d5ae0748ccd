"""Weights decoded in groups, in the order in which layers run, and forgotten when they move."""

import pytest
import torch

from comfy_vq import ahead, codecs, kernels
from comfy_vq.ahead import Ahead
from comfy_vq.kernels import scratch

CPU = torch.device("cpu")


class Layer:
    def __init__(self, order, rows, seed):
        generator = torch.Generator().manual_seed(seed)
        self.coded = codecs.encode(torch.randn(rows, 64, generator=generator), 2, effort="fast")
        self.held = torch.empty(0)  # stands for the parameter
        self.slot = order.slot()

    def run(self, dtype=torch.float16, device=CPU):
        """What was decoded ahead, or None where the layer decodes by itself into the buffer."""
        found = self.slot.decoded(self.held, lambda: self.coded, dtype, device)
        if found is None:
            self.coded.decode(dtype, scratch.scratch(len(self), 64, dtype, CPU))
        return found

    def __len__(self):
        return self.coded.shape[0]

    def is_right(self, found, dtype=torch.float16):
        return found is not None and torch.equal(found, self.coded.decode(dtype))


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    """A CPU that decodes in batches of at most 1280 weights in float16; sizes of those launched."""
    scratch.release()
    launched = []
    real = kernels.batches

    def recorded(items):
        launches = real(items)
        return [lambda: launched.append(len(items)), *launches]

    monkeypatch.setattr(ahead.kernels, "batches", recorded)
    monkeypatch.setattr(ahead.kernels, "decodes_in_batches", lambda dtype, device: True)
    monkeypatch.setattr(scratch, "LIMIT", 2560)
    yield launched
    scratch.release()


def layers(*rows, spare=0):
    order = Ahead(spare)
    return [Layer(order, count, seed) for seed, count in enumerate(rows)]


def learn(model, **kind):
    """The first pass, and the call after it."""
    for layer in [*model, model[0]]:
        assert layer.run(**kind) is None


def test_successive_layers_share_a_launch(batches):
    model = layers(8, 4, 8, 16)
    learn(model)
    for _ in range(3):
        batches.clear()
        for layer in model:
            assert layer.is_right(layer.run())
        assert batches == [3, 1]


def test_decoded_weights_lie_in_one_buffer_of_limited_size():
    model = layers(8, 4, 8, 16)
    learn(model)
    decoded = [layer.run() for layer in model]
    assert len({d.untyped_storage().data_ptr() for d in decoded}) == 1
    assert decoded[0].untyped_storage().nbytes() == scratch.LIMIT


def test_a_layer_too_large_for_the_buffer_is_left_out(batches):
    model = layers(8, 40, 8)
    learn(model)
    found = [layer.run() for layer in model]
    assert found[1] is None
    assert model[2].is_right(found[2])
    assert batches == [1, 1]


def test_whoever_else_decodes_takes_the_buffer(batches):
    model = layers(8, 4, 8)
    learn(model)
    model[0].run()
    scratch.scratch(1, 8, torch.float16, CPU).fill_(torch.nan)
    assert model[1].run() is None  # which decodes by itself
    assert [layer.is_right(layer.run()) for layer in model] == [True] * 3


def test_layers_left_out_of_a_pass_do_no_harm():
    model = layers(8, 4, 8, 16)
    learn(model)
    found = [layer.run() for layer in model[1:]]
    assert found[:2] == [None, None] and model[3].is_right(found[2])


def test_another_weight_is_never_answered_with_the_old_one():
    model = layers(8, 4)
    learn(model)
    assert model[0].run() is not None
    model[1].held, model[1].coded = torch.empty(0), layers(4, 4)[1].coded
    assert model[1].run() is None
    learn(model)
    assert [layer.is_right(layer.run()) for layer in model] == [True, True]


@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16])
def test_layers_of_several_dtypes(other):
    model = layers(4, 4, 4)
    dtypes = [torch.float16, other, torch.float16]
    for layer, dtype in [*zip(model, dtypes, strict=True), (model[0], torch.float16)]:
        assert layer.run(dtype) is None
    for layer, dtype in zip(model, dtypes, strict=True):
        assert layer.is_right(layer.run(dtype), dtype)


def test_an_order_that_keeps_changing_is_given_up(batches):
    model = layers(8, 4)
    dtypes = [torch.float16, torch.float32, torch.bfloat16]
    for n in range(3 * ahead._TRIES):
        for layer in model:
            found = layer.run(dtypes[n // 2 % 3])
            assert found is None or layer.is_right(found, dtypes[n // 2 % 3])
    batches.clear()
    assert [layer.run() for layer in model * 4] == [None] * 8
    assert batches == []


def test_nothing_is_arranged_while_a_graph_is_captured(monkeypatch, batches):
    model = layers(8, 4)
    with monkeypatch.context() as patched:
        patched.setattr(scratch, "is_capturing", lambda device: True)
        learn(model)
        assert [layer.run() for layer in model] == [None, None]
    assert model[0].run() is None  # now it is
    assert [layer.is_right(layer.run()) for layer in model] == [True, True]


def test_streamed_weights_are_not_noted():
    model = layers(8)
    for _ in range(3):
        assert (
            model[0].slot.decoded(model[0].held, None, torch.float16, torch.device("meta")) is None
        )


def test_moving_a_weight_forgets_all():
    model = layers(8, 4)
    learn(model)
    model[0].run()
    model[0].slot.ahead.reset()
    assert model[1].run() is None


def test_a_larger_buffer_of_another_model(monkeypatch):
    model = layers(8, 4)
    learn(model)
    assert model[0].run() is not None
    scratch._BUFFERS.known.clear()
    scratch.reserve(5000, CPU)
    assert model[0].run() is None
    learn(model)
    assert [layer.is_right(layer.run()) for layer in model] == [True, True]


def test_spare_memory_keeps_the_smallest_decoded(batches):
    model = layers(8, 4, 16, spare=2 * 64 * 12)
    learn(model)
    batches.clear()
    kept = [layer.run() for layer in model]
    scratch.scratch(1, 1280, torch.float16, CPU).fill_(torch.nan)
    assert [layer.is_right(found) for layer, found in zip(model[:2], kept[:2], strict=True)] == [
        True
    ] * 2
    assert batches == [1]
    assert model[0].run() is kept[0] and model[1].run() is kept[1]
    assert kept[0].untyped_storage().nbytes() == 2 * 64 * 8


def test_spare_memory_without_batches(monkeypatch):
    monkeypatch.setattr(ahead.kernels, "decodes_in_batches", lambda dtype, device: False)
    model = layers(8, 16, spare=1024)
    learn(model)
    for _ in range(2):
        assert [layer.run() is None for layer in model] == [False, True]


def test_less_memory_than_was_said_to_be_spare(monkeypatch):
    model = layers(8, 4, spare=1 << 20)

    def full(*_):
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patched:
        patched.setattr(codecs.VQWeight, "decode", lambda self, dtype, out=None: full() if out is None
                        else None)  # fmt: skip
        learn(model)
    assert [layer.is_right(layer.run()) for layer in model] == [True, True]


def test_what_is_made_in_inference_mode_serves_outside():
    model = layers(8, 4, spare=512)
    with torch.inference_mode():
        learn(model)
        assert [layer.is_right(layer.run()) for layer in model] == [True, True]
    assert [layer.is_right(layer.run()) for layer in model] == [True, True]
