"""Which layers compute in int8, when that is decided, and where it cannot be."""

import logging

import pytest
import torch

from comfy_vq.hosts.comfy.model import int8, int8_trial
from host.coded_layers import CPU, PRECISIONS, Layers, activations, coded, exactly
from host.sampling import relative_l2


def spiky(tokens=16, width=1024):
    """One channel far beyond the others, which a byte for it leaves a few steps."""
    x = activations(tokens, width)
    x[..., 3] *= 300
    return x


def test_a_layer_with_outliers_stays_exact_and_says_so(caplog):
    caplog.set_level(logging.INFO)
    weights = {"calm": coded(4, (32, 1024), None), "wild": coded(4, (32, 1024), None)}
    layers, inputs = Layers("int8", **weights), {"calm": activations(16, 1024), "wild": spiky()}
    first, second = layers.sample(inputs, inputs)
    for name, weight in weights.items():
        assert torch.equal(first[name], exactly(weight, inputs[name]))
    assert not torch.equal(second["calm"], first["calm"])
    assert torch.equal(second["wild"], first["wild"])
    (line,) = [record.message for record in caplog.records if "VQ:" in record.message]
    assert line.startswith("VQ: int8 for 1 of 2 linear layers; the others stay exact, worst wild (")
    assert [choice.int8 for choice in layers.mode.choices] == [True, False]


def test_a_rotation_spreads_outliers():
    layers = Layers("int8", turned=coded(3, (32, 1024), 128), plain=coded(3, (32, 1024), None))
    inputs = {"turned": spiky(), "plain": spiky()}
    layers.sample(inputs, inputs)
    turned, plain = layers.mode.choices
    assert turned.db > plain.db + 6


def test_what_all_tokens_have_in_common_hides_no_loss():
    """A huge constant is nearly all of the power, and rounding to its bytes erases all else."""
    weight, x = coded(3, (32, 256), None), activations(16)
    x[..., 3] = 3000
    layers = Layers("int8", layer=weight)
    layers.sample({"layer": x}, {"layer": x})
    assert not layers.mode.choices[0].int8


@pytest.mark.parametrize("x", [activations(1), activations(8)[0], 0 * activations(8)])
def test_layers_without_a_difference_between_tokens_stay_exact(x):
    """Embeddings of time and the like: short to multiply, and all that follows depends on them."""
    weight = coded()
    _, second = Layers("int8", layer=weight).sample({"layer": x}, {"layer": x})
    assert torch.equal(second["layer"], exactly(weight, x))


def test_layers_that_the_first_evaluation_left_out_stay_exact():
    weight, x = coded(), activations(8)
    layers = Layers("int8", one=weight, other=weight)
    _, second = layers.sample({"one": x}, {"one": x, "other": x})
    assert torch.equal(second["other"], exactly(weight, x))
    assert not torch.equal(second["one"], exactly(weight, x))


def test_nothing_that_has_a_gradient_is_rounded():
    weight, x = coded(), activations(8)
    _, second = Layers("int8", layer=weight).sample({"layer": x}, {"layer": x.requires_grad_()})
    assert torch.equal(second["layer"], exactly(weight, x))


def test_outside_of_sampling_everything_is_exact():
    weight, x = coded(), activations(8)
    layers = Layers("int8", layer=weight)
    layers.sample({"layer": x}, {"layer": x})
    assert torch.equal(layers.layer(x), exactly(weight, x))
    with pytest.raises(KeyboardInterrupt), layers.mode.sampling(CPU, torch.float32):
        layers.evaluate(layer=x)
        layers.evaluate(layer=x)
        raise KeyboardInterrupt
    assert torch.equal(layers.layer(x), exactly(weight, x))


def test_compiled_layers_are_exact():
    weight, x = coded(), activations(8)
    layers = Layers("int8", layer=weight)
    compiled = torch.compile(layers.layer, backend="eager")
    with layers.mode.sampling(CPU, torch.float32):
        for _ in range(2):
            layers.mode.before_evaluation()
            found = compiled(x)
    assert layers.mode.choices == () and relative_l2(exactly(weight, x), found) < 1e-6


def test_auto_is_exact_on_a_cpu():
    weight, x = coded(), activations(8)
    layers = Layers("auto", layer=weight)
    _, second = layers.sample({"layer": x}, {"layer": x})
    assert torch.equal(second["layer"], exactly(weight, x)) and layers.mode.choices == ()


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_the_trial_finds_it_working_here(dtype):
    assert int8_trial.broken(CPU, dtype) is None
    assert not int8_trial.pays(CPU, dtype)


@pytest.fixture
def fresh_trial():
    trials = int8_trial.broken, int8_trial.pays
    for trial in trials:
        trial.cache_clear()
    yield
    for trial in trials:
        trial.cache_clear()


def fails(*_):
    raise RuntimeError("no kernel image is available\nfor execution")


@pytest.mark.parametrize(
    ("product", "reason"),
    [(fails, "no kernel image is available"), (lambda x, *_: x[..., :64] * 0, "wrong by 100.0%")],
)
def test_where_it_does_not_work_layers_stay_exact(
    product, reason, monkeypatch, fresh_trial, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(int8, "linear", product)
    weight, x = coded(), activations(8)
    _, second = Layers("int8", layer=weight).sample({"layer": x}, {"layer": x})
    assert torch.equal(second["layer"], exactly(weight, x))
    assert reason in caplog.text and "computing exactly" in caplog.text


@pytest.mark.parametrize(
    ("milliseconds", "chosen"), [((1.0, 0.8), True), ((1.0, 0.81), False), ((0.1, 2.0), False)]
)
def test_auto_is_int8_where_that_saves_a_fifth_of_the_time(
    milliseconds, chosen, monkeypatch, fresh_trial, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(int8_trial, "broken", lambda *_: None)
    monkeypatch.setattr(int8_trial, "_times", lambda *_: milliseconds)
    card = torch.device("cuda", 0)
    assert int8_trial.pays(card, torch.float16) is chosen
    assert f"int8: {'int8' if chosen else 'exact'}" in caplog.text
    caplog.clear()
    int8_trial.pays(card, torch.float16)
    assert not caplog.text  # tried once


def test_auto_is_exact_where_nothing_can_be_timed(monkeypatch, fresh_trial):
    monkeypatch.setattr(int8_trial, "broken", lambda *_: None)
    monkeypatch.setattr(int8_trial, "_times", fails)
    assert not int8_trial.pays(torch.device("cuda", 0), torch.float16)
