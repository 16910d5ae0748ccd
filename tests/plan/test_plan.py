"""A plan meets its target, counted in full, and spends bits where they matter."""

from __future__ import annotations

import json
import math
import time

import pytest

from comfy_vq import codecs
from comfy_vq.errors import VQError
from comfy_vq.plan import TOLERANCE, Choice, Layer, Plan, Task, make_plan, to_table

from . import shapes

MODELS = {
    "sdxl": shapes.sdxl(),
    "sd15": shapes.sd15(),
    "demo": shapes.demo(),
    "flux": shapes.flux(),
}


def plan_of(layers: list[Layer], bits: float, **options) -> Plan:
    """A plan with as many weights in norms and biases as such models have."""
    other = sum(layer.numel for layer in layers) // 1200
    return make_plan(layers, 16 * other, other, bits, **options)


def stored_bits(plan: Plan, window: int = 12) -> float:
    """Average counted from scratch: pieces, dense weights and each set in use once."""
    total, numel, sets = plan.other_bits, plan.other_numel, set()
    for layer in plan.layers:
        choice = plan.choices[layer.name]
        numel += layer.numel
        if choice.codec is None:
            assert choice.bits == layer.itemsize_bits
            total += layer.numel * layer.itemsize_bits
            continue
        spec = codecs.spec_for(choice.codec, choice.bits, layer.shape)
        total += codecs.stored_bits(spec, layer.shape)
        if codecs.get(choice.codec).codebook_shape(spec):
            trellis = choice.codec == "trellis"
            shipped = codecs.shipped_table(choice.bits, window) if trellis else None
            shipped = shipped or codecs.shipped_set(choice.bits)
            sets.add((shipped.name, shipped.nbytes))
    return (total + sum(8 * nbytes for _, nbytes in sets)) / numel


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bits", [2.0, 2.2, 2.5, 3.0, 3.3, 4.0, 5.7, 8.0])
def test_meets_the_target_counted_in_full(model: str, bits: float) -> None:
    plan = plan_of(MODELS[model], bits)
    assert stored_bits(plan) == pytest.approx(plan.bits, abs=1e-9)
    assert bits - TOLERANCE <= plan.bits <= bits


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("bits", [2.2, 3.0, 5.7])
def test_a_plan_for_a_trellis_meets_it_with_less_noise(model: str, bits: float) -> None:
    plan = plan_of(MODELS[model], bits, codec="trellis")
    assert stored_bits(plan) == pytest.approx(plan.bits, abs=1e-9)
    assert bits - TOLERANCE <= plan.bits <= bits
    used = {(choice.codec, choice.bits) for choice in plan.choices.values() if choice.codec}
    own, others = {("trellis", k) for k in range(2, 6)}, {("additive", 1), ("additive", 6)}
    assert used & own and used <= {*own, *others, ("int8", 8)}
    additive = plan_of(MODELS[model], bits)
    assert {choice.codec for choice in additive.choices.values()} <= {"additive", "int8", None}
    if plan.sqnr_db is not None and additive.sqnr_db is not None:
        assert plan.sqnr_db > additive.sqnr_db + 0.3


def test_layers_that_go_by_groups_do_whatever_the_codec() -> None:
    layers = [Layer(f"l{i}", (1024, 1024), 16) for i in range(40)]
    task = Task.of(layers, 0, 0, 3.2, "generic", codec="trellis", grouped={"l2", "l5"})
    plan = task.solve()
    assert abs(plan.bits - 3.2) <= TOLERANCE
    coded = {name: choice.codec for name, choice in plan.choices.items()}
    assert {name for name, codec in coded.items() if codec == "additive"} == {"l2", "l5"}
    assert all(codec == "trellis" for name, codec in coded.items() if name not in {"l2", "l5"})
    asked = {layer.name: Choice("trellis", 3) for layer in layers}
    again = task.plan(task.allocation(asked), None)
    assert again.choices["l2"] == Choice("additive", 3) and again.choices["l3"] == asked["l3"]


def test_the_size_of_a_table_goes_by_the_effort() -> None:
    plan = plan_of(MODELS["demo"], 3.0, codec="trellis", effort="fast")
    assert stored_bits(plan, window=10) == pytest.approx(plan.bits, abs=1e-9)
    assert stored_bits(plan, window=12) > plan.bits


def test_codecs_that_no_model_is_coded_by_are_refused() -> None:
    with pytest.raises(VQError, match="codec: found 'int8', expected one of additive, trellis"):
        plan_of(MODELS["demo"], 3.0, codec="int8")


@pytest.mark.parametrize("seed", range(6))
def test_meets_the_target_for_any_mix_of_shapes(seed: int) -> None:
    layers = shapes.random_layers(seed)
    for bits in (2.7, 3.4, 4.5, 7.2):
        plan = plan_of(layers, bits)
        assert stored_bits(plan) == pytest.approx(plan.bits, abs=1e-9)
        assert abs(plan.bits - bits) <= TOLERANCE


def test_more_bits_never_mean_more_noise() -> None:
    quality = [plan_of(MODELS["sdxl"], bits / 4).sqnr_db for bits in range(8, 33, 3)]
    assert quality == sorted(quality)


def test_is_deterministic() -> None:
    assert plan_of(MODELS["sdxl"], 3.0).choices == plan_of(MODELS["sdxl"], 3.0).choices


def test_mixing_beats_one_width_for_all_layers() -> None:
    """With conv_in and conv_out left alone, which a uniform 3 bits would ruin."""
    ends = ("input_blocks.0.0", "out.2")
    plan = plan_of(MODELS["sdxl"], 3.0, exclude=ends)
    uniform = plan_of(MODELS["sdxl"], 3.0, exclude=ends, family="generic")
    assert plan.family == "sdxl" and uniform.sqnr_db is None
    assert len({str(choice) for choice in plan.choices.values()}) >= 6
    assert plan.sqnr_db is not None and plan.sqnr_db > 25


def test_800_layers_take_well_under_a_second() -> None:
    start = time.perf_counter()
    plan_of(MODELS["sdxl"], 3.0)
    assert time.perf_counter() - start < 2  # 0.4 s on a busy machine with two cores


def test_sensitive_layers_get_more_bits() -> None:
    plan = plan_of(MODELS["sdxl"], 3.0)

    def mean_bits(ending: str) -> float:
        widths = [c.bits for name, c in plan.choices.items() if name.endswith(ending)]
        return sum(widths) / len(widths)

    assert plan.choices["out.2"].bits >= 8
    assert mean_bits("attn2.to_q") < mean_bits("attn1.to_v") < mean_bits("proj_in")


def test_excluded_layers_stay_dense() -> None:
    plan = plan_of(
        MODELS["sdxl"], 3.0, exclude=["out.2", "input_blocks.?.0.in_layers.2", "proj_in"]
    )
    for name, choice in plan.choices.items():
        dense = name == "out.2" or "proj_in" in name or name == "input_blocks.1.0.in_layers.2"
        assert not dense or choice.codec is None, name
    assert abs(plan.bits - 3) <= TOLERANCE


@pytest.mark.parametrize("given", ["model.diffusion_model.out.2.weight", " out.2 "])
def test_exclude_takes_whole_checkpoint_keys(given: str) -> None:
    assert plan_of(MODELS["demo"], 4.0, exclude=[given]).choices["out.2"].codec is None


def test_an_exclude_that_matches_nothing_names_what_is_close() -> None:
    with pytest.raises(
        VQError, match=r"'output_blocks.1.0.skip_conection'.*close names: .*skip_conn"
    ):
        plan_of(MODELS["demo"], 3.0, exclude=["output_blocks.1.0.skip_conection"])


@pytest.mark.parametrize("bits", [0.5, 30.0])
def test_an_unreachable_target_names_the_range(bits: float) -> None:
    with pytest.raises(VQError, match=rf"found {bits:g}.* 1\.\d\d to 16\.00 bits per weight"):
        plan_of(MODELS["demo"], bits)


def test_both_ends_of_the_named_range_are_reachable() -> None:
    layers = MODELS["demo"]
    with pytest.raises(VQError) as error:
        plan_of(layers, 0.5)
    low, high = map(float, str(error.value).split("brought to ")[1].split(" bits")[0].split(" to "))
    for bits in (low, high):
        assert abs(plan_of(layers, bits).bits - bits) <= TOLERANCE


def test_a_lone_layer_names_the_nearest_average() -> None:
    with pytest.raises(VQError, match=r"no mix .* nearest is \d\.\d\d"):
        make_plan([Layer("only", (1024, 1024), 16)], 0, 0, 3.5)


def test_tiny_layers_stay_dense_while_the_target_allows() -> None:
    layers = [Layer(f"blocks.{i}.fc", (256, 256), 16) for i in range(64)]
    layers += [Layer(f"blocks.{i}.gate", (32, 64), 16) for i in range(64)]
    roomy, tight = make_plan(layers, 0, 0, 3.5), make_plan(layers, 0, 0, 1.2)
    assert all(c.codec is None for name, c in roomy.choices.items() if "gate" in name)
    assert any(c.codec is not None for name, c in tight.choices.items() if "gate" in name)


def test_sets_cost_so_a_small_model_uses_few() -> None:
    """At half a million weights a set of M costs M * 0.03 bits per weight."""
    layers = [Layer(f"blocks.{i}.fc", (64 * (i + 1), 256), 16) for i in range(7)]
    plan = make_plan(layers, 0, 0, 3.0)
    assert stored_bits(plan) == pytest.approx(plan.bits)
    assert len({c.bits for c in plan.choices.values() if c.codec == "additive"}) <= 3


def test_layers_that_additive_cannot_take_are_int8_or_dense() -> None:
    layers = [Layer(f"blocks.{i}.fc", (100, 100), 16) for i in range(64)]
    plan = make_plan(layers, 0, 0, 9.5)
    assert {c.codec for c in plan.choices.values()} == {None, "int8"}


@pytest.mark.parametrize("bits", [0, -3, math.nan, math.inf, "3"])
def test_bits_must_be_a_positive_number(bits) -> None:
    with pytest.raises(VQError, match="bits: found"):
        plan_of(MODELS["demo"], bits)


def test_there_must_be_layers() -> None:
    with pytest.raises(VQError, match="no layer"):
        make_plan([], 0, 0, 3.0)


def test_prints_a_line_per_role() -> None:
    lines = to_table(plan_of(MODELS["sdxl"], 3.0)).splitlines()
    assert len(lines) < 80 and max(map(len, lines)) < 130
    role = next(
        line for line in lines if "output_blocks.*.1.transformer_blocks.*.attn1.to_q" in line
    )
    assert role.split()[1:4] == ["36", "51.610", "2.0%"]
    assert lines[-1].startswith("3.000 bits per weight") or lines[-1].startswith("2.99")
    assert "asked for 3)" in lines[-1] and "sdxl" in lines[-1]


def test_summary_is_small_json() -> None:
    summary = plan_of(MODELS["sdxl"], 2.2).summary()
    assert len(json.dumps(summary)) < 1000
    assert sum(summary["weights"].values()) == sum(layer.numel for layer in MODELS["sdxl"])
