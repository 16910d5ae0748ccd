import math
from functools import partial

import pytest

from comfy_vq.budget import (
    Fit,
    activation_bytes,
    coded_bytes,
    parse_bits,
    plan_within,
    sampling_bytes,
)
from comfy_vq.errors import VQError
from comfy_vq.plan import Layer, make_plan

LAYERS = [
    Layer(f"blocks.{i}.{name}", (rows, 2048), 16)
    for i in range(40)
    for name, rows in (("ff", 8192), ("q", 2048), ("mod", 512))
]
NORMS = (16 * 40 * 2048, 40 * 2048)
plan_at = partial(make_plan, LAYERS, *NORMS)
memory_of = partial(sampling_bytes, activations=100_000_000)


@pytest.mark.parametrize("given", ["3.0", " 3 ", 3, 3.0])
def test_a_number_is_a_number_however_it_is_given(given):
    assert parse_bits(given) == 3.0


@pytest.mark.parametrize(
    ("given", "nbytes"),
    [
        ("fit 4 GB", 4 * 10**9),
        ("fit 4gb", 4 * 10**9),
        (" FIT  6.5 GB ", 6_500_000_000),
        ("fit 4 GiB", 4 * 2**30),
    ],
)
def test_an_amount_of_memory(given, nbytes):
    assert parse_bits(given) == Fit(nbytes)


@pytest.mark.parametrize(
    "given",
    ["", "three", "nan", 1.9, "8.1", "-3", True, "fit", "fit 4", "fit -4 GB", "fit 0 GB", "4 GB",
     "fit 4 GB or so", "fit " + "9" * 400 + " GB"],
)  # fmt: skip
def test_anything_else_is_refused_in_one_line(given):
    with pytest.raises(VQError, match="expected 2 to 8 bits per weight.*fit 4 GB") as refusal:
        parse_bits(given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("at", [2.0, 2.71, 4.0, 7.5])
def test_fits_with_as_many_bits_as_possible(at):
    limit = memory_of(plan_at(at))
    plan = plan_within(Fit(limit), plan_at, memory_of)
    assert memory_of(plan) <= limit
    assert at - 0.03 <= plan.bits <= at + 0.02


def test_never_more_than_eight_bits():
    assert plan_within(Fit(10**12), plan_at, memory_of).bits == pytest.approx(8, abs=0.02)


def test_a_number_of_bits_is_taken_as_it_is():
    assert plan_within(4.3, plan_at, memory_of) == plan_at(4.3)


def test_too_little_memory_is_refused_with_the_least_that_does():
    with pytest.raises(VQError, match=r"found 'fit 0\.1 GB'.* 2\.\d\d bits.*ask for") as refusal:
        plan_within(Fit(100_000_000), plan_at, memory_of)
    least = str(refusal.value).split('"')[1]
    plan = plan_within(parse_bits(least), plan_at, memory_of)
    assert plan.bits == pytest.approx(2, abs=0.15)
    short = f"fit {float(least.split()[1]) - 0.02:.3f} GB"
    with pytest.raises(VQError, match="ask for"):
        plan_within(parse_bits(short), plan_at, memory_of)


def test_layers_that_stay_dense_raise_what_is_least():
    excluding = partial(plan_at, exclude=["blocks.1*"])
    with pytest.raises(VQError, match="can be brought to"):
        excluding(3.0)
    limit = memory_of(excluding(6.0))
    assert 5.9 < plan_within(Fit(limit), excluding, memory_of).bits <= 6.02
    with pytest.raises(VQError, match=r"but at [45]\.\d\d bits"):
        plan_within(Fit(memory_of(plan_at(3.0))), excluding, memory_of)


def test_other_refusals_are_passed_on():
    with pytest.raises(VQError, match="exclude: found 'nothing'"):
        plan_within(Fit(10**9), partial(plan_at, exclude=["nothing"]), memory_of)


def test_sampling_takes_the_coded_model_a_decoded_layer_and_activations():
    plan = plan_at(4.0)
    one_layer = 2 * math.prod(LAYERS[0].shape)
    without = sampling_bytes(plan, activations=0)
    assert coded_bytes(plan) + one_layer < without < coded_bytes(plan) + 3 * one_layer + 10**8
    assert sampling_bytes(plan, activations=5) == without + 5


def test_activations_are_known_or_said_not_to_be():
    assert activation_bytes("sdxl") > activation_bytes("sd15") > activation_bytes("demo")
    assert activation_bytes("dit") is None
