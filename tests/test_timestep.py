import math

import pytest
import torch
import torch.nn.functional as F

from comfy_vq import codecs
from comfy_vq.calibration import Calibration, Moments
from comfy_vq.calibration.gate import Gate
from comfy_vq.hosts.diffusers import load_unet
from comfy_vq.quantize import plan_for, quantize
from comfy_vq.timestep import STEPS, layers_of_time, moments_of_time, sinusoids
from tests.sd_model import state_dict
from toy_weights import Weights

READER = "input_blocks.1.0.emb_layers.1"
IN_DIFFUSERS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    READER: "down_blocks.0.resnets.0.time_emb_proj",
}


@pytest.fixture(scope="module")
def tensors():
    """A network whose embedding of time changes with time as much as that of a trained one."""
    return state_dict(channels=64, context=64)


def test_sinusoids_are_cosines_then_sines_of_the_time_step():
    found = sinusoids(8)
    assert found.shape == (STEPS, 8)
    for t, i in [(0, 0), (7, 1), (999, 3)]:
        angle = t * 10000 ** (-i / 4)
        assert found[t, i] == pytest.approx(math.cos(angle), abs=1e-3)
        assert found[t, 4 + i] == pytest.approx(math.sin(angle), abs=1e-3)


@torch.inference_mode()
def test_moments_are_of_what_the_network_computes_over_all_time_steps(tensors):
    found, unet = moments_of_time(Weights(tensors)), load_unet(tensors)
    steps = torch.arange(STEPS)
    first = unet.time_proj(steps)
    second = F.silu(unet.time_embedding.linear_1(first))
    read = F.silu(unet.time_embedding(first))
    for layer, x in [("time_embed.0", first), ("time_embed.2", second), (READER, read)]:
        assert torch.allclose(found[layer][0], x.T @ x / STEPS, rtol=1e-2, atol=1e-4)
    assert {layer for layer in found if "emb_layers" in layer} == {
        key.removesuffix(".weight") for key in tensors if key.endswith("emb_layers.1.weight")
    }


def test_names_of_diffusers_lead_to_the_same(tensors):
    renamed = {
        f"{IN_DIFFUSERS[layer]}.{part}": tensors[f"{layer}.{part}"]
        for layer in IN_DIFFUSERS
        for part in ("weight", "bias")
    }
    found, expected = moments_of_time(Weights(renamed)), moments_of_time(Weights(tensors))
    assert found.keys() == set(IN_DIFFUSERS.values())
    for ours, theirs in IN_DIFFUSERS.items():
        assert torch.equal(found[theirs], expected[ours])


@pytest.mark.parametrize("added", ["label_emb.0.0.weight", "add_embedding.linear_1.weight"])
def test_where_a_class_goes_into_the_embedding_its_readers_are_unknown(tensors, added):
    found = moments_of_time(Weights({**tensors, added: torch.zeros(256, 64)}))
    assert found.keys() == {"time_embed.0", "time_embed.2"}


@pytest.mark.parametrize(
    "change",
    [
        {"time_embed.cond_proj.weight": torch.zeros(64, 8)},
        {"time_embed.0.weight": None, "time_embed.0.bias": None},
        {"time_embed.2.bias": None},
    ],
    ids=["guidance", "no embedding", "no bias"],
)
def test_nothing_is_known_of_other_networks(tensors, change):
    changed = {**tensors, **change}
    assert moments_of_time(Weights({k: t for k, t in changed.items() if t is not None})) == {}


def test_layers_that_see_nothing_are_coded_as_ever(tensors):
    silent = {k: torch.zeros_like(t) if k.startswith("time_") else t for k, t in tensors.items()}
    assert moments_of_time(Weights(silent)).keys() == {"time_embed.0"}


@pytest.mark.parametrize("codec", codecs.CODECS)
def test_a_quantized_model_tells_time_better_than_its_weights_alone_would(tensors, codec):
    half = {key: tensor.half() for key, tensor in tensors.items()}
    model = quantize(Weights(half), 3.0, effort="fast", family="generic", codec=codec)
    moments = moments_of_time(Weights(half))
    compared = 0
    for layer, aim in moments.items():
        coded, weight = model.layers.get(layer), half[f"{layer}.weight"]
        if coded is None or coded.codec == "int8":
            continue
        plain = codecs.encode(weight, coded.spec.bits, coded.codec, "fast", unbiased=True)
        errors = [(w.decode() - weight.float()).double() for w in (coded, plain)]
        fed, left = (float(((e @ aim[0].double()) * e).sum()) for e in errors)
        assert fed < 0.5 * left
        compared += 1
    assert compared >= 3


def test_a_calibration_of_a_few_time_steps_changes_nothing_of_what_holds_for_all(tensors):
    weights = Weights({key: tensor.half() for key, tensor in tensors.items()})
    plan = plan_for(weights, 3.0, family="generic", codec="additive")
    known, shapes = moments_of_time(weights), {layer.name: layer.shape for layer in plan.layers}
    heard = {name: few_directions(shape[1]) for name, shape in shapes.items()}
    gate = Gate(Calibration(shapes, heard, 1))
    plain, calibrated = (
        quantize(weights, 3.0, effort="fast", plan=plan, gate=g) for g in (None, gate)
    )
    coded = {name: weight for name, weight in plain.layers.items() if weight.codec == "additive"}
    assert coded.keys() & known.keys() and coded.keys() - known.keys()
    for name, weight in coded.items():
        same = torch.equal(weight.tensors["codes"], calibrated.layers[name].tensors["codes"])
        assert same == (name in known)
    assert not known.keys() & {*gate.kept, *gate.refused}


def few_directions(width: int) -> Moments:
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    return Moments((x.T @ x)[None], len(x))


def test_they_are_coded_in_groups_whatever_the_codec(tensors):
    """Under moments of so few directions a path's end has nothing that makes up for it."""
    half = {key: tensor.half() for key, tensor in tensors.items()}
    choices = plan_for(Weights(half), 3.0, family="generic", codec="trellis").choices
    of_time = layers_of_time(Weights(half)).names
    assert READER in of_time and set(of_time) == moments_of_time(Weights(half)).keys()
    coded = {name: choice.codec for name, choice in choices.items() if choice.codec is not None}
    assert not {name for name in of_time if coded.get(name) == "trellis"}
    assert {codec for name, codec in coded.items() if name not in of_time} == {"trellis"}
