"""Errors layer by layer."""

import pytest
import torch
from torch import nn

from comfy_vq.evaluation.layers import layer_errors, layers_of
from evaluation.toy import Network, ToyBench, noisy


@pytest.fixture(scope="module")
def bench() -> ToyBench:
    return ToyBench()


@pytest.fixture(scope="module")
def reference() -> Network:
    return Network()


@pytest.fixture(scope="module")
def recording(bench, reference):
    return bench.record(reference)


def hooks(*networks: nn.Module) -> int:
    return sum(len(m._forward_hooks) for network in networks for m in network.modules())


def test_layers_are_told_by_type_or_by_name(reference):
    assert list(layers_of(reference)) == ["conv", "mix", "out"]


def test_only_the_layer_that_differs_has_an_error(bench, reference, recording):
    """Although the layers behind it see other inputs in the candidate."""
    found = layer_errors(bench, reference, noisy(reference, 0.1, "conv"), recording)
    assert found["conv"] > 0 and found["mix"] == found["out"] == 0


def test_the_error_is_that_of_outputs_over_all_steps(bench, reference, recording):
    candidate = noisy(reference, 0.1, "out")
    inputs = []
    hook = reference.out.register_forward_hook(lambda layer, args, output: inputs.append(args[0]))
    bench.predict(reference, recording)
    hook.remove()
    with torch.no_grad():
        x = torch.cat(inputs)
        expected, found = reference.out(x), candidate.out(x)
    nmse = ((found - expected).square().sum() / expected.square().sum()).item()
    assert len(inputs) == len(recording.timesteps)
    assert layer_errors(bench, reference, candidate, recording)["out"] == pytest.approx(nmse)


def test_a_scaled_weight_has_a_known_error(bench, reference, recording):
    candidate = noisy(reference, 0)
    candidate.mix.weight.data *= 1.1
    assert layer_errors(bench, reference, candidate, recording)["mix"] == pytest.approx(0.01)


def test_candidates_compute_in_their_own_precision(bench, reference, recording):
    class Halved(ToyBench):
        def call(self, model, recording, step):
            model(recording.inputs[step].to(model.out.weight.dtype))

    found = layer_errors(Halved(), reference, noisy(reference, 0).bfloat16(), recording)
    assert all(0 < error < 1e-4 for error in found.values())


def test_layers_that_the_candidate_lacks_are_left_out(bench, reference, recording):
    candidate = noisy(reference, 0.1)
    candidate.mix = nn.Identity()
    assert list(layer_errors(bench, reference, candidate, recording)) == ["conv", "out"]


def test_layers_come_in_the_order_of_their_use(bench, reference, recording):
    first_last = noisy(reference, 0)
    first_last.conv = first_last._modules.pop("conv")  # named last, used first
    used = bench.record(first_last)
    assert list(layers_of(first_last)) == ["mix", "out", "conv"]
    assert list(layer_errors(bench, first_last, reference, used)) == ["conv", "mix", "out"]


def test_shared_modules_do_not_recurse(bench, reference, recording):
    candidate = noisy(reference, 0.1)
    candidate.mix = reference.mix
    found = layer_errors(bench, reference, candidate, recording)
    assert found["mix"] == 0 and found["conv"] > 0
    assert layer_errors(bench, reference, reference, recording) == {}


def test_no_hooks_stay_behind(bench, reference, recording):
    good, bad = noisy(reference, 0.1), noisy(reference, 0.1)
    layer_errors(bench, reference, good, recording)
    answers = iter([bad.out.weight])

    def fails_the_second_time(x):
        return x @ next(answers)

    bad.out.forward = fails_the_second_time
    with pytest.raises(StopIteration):
        layer_errors(bench, reference, bad, recording)
    assert hooks(reference, good, bad) == 0
