"""LoRA hooks on a VQ model: of one conditioning, with a schedule, beside other LoRAs."""

import comfy.hooks
import comfy.model_management
import comfy.sd
import nodes
import pytest
import torch

from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from host.families import FAMILIES, random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2

STEPS = 4
MODES = list(comfy.hooks.EnumHookMode)


@pytest.fixture(scope="module", params=["sd15", "flux"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def both(family):
    """The VQ model, and the dense one that holds its decoded weights."""
    vq = random_vq_model(family)
    return load(InMemory(vq)), load_dense(vq.decode(torch.float32))


def conditioning(family, seed):
    chosen = FAMILIES[family]
    generator = torch.Generator().manual_seed(seed)
    extra = {}
    if chosen.pooled:
        extra["pooled_output"] = torch.randn((1, chosen.pooled), generator=generator)
    return [[torch.randn((1, 16, chosen.context), generator=generator), extra]]


def sample(model, family, positive_hooks=None, negative_hooks=None):
    conds = []
    for seed, hooks in ((1, positive_hooks), (2, negative_hooks)):
        cond = conditioning(family, seed)
        conds.append(comfy.hooks.set_hooks_for_conditioning(cond, hooks) if hooks else cond)
    latent = {"samples": torch.zeros(FAMILIES[family].latent)}
    (out,) = nodes.common_ksampler(model, 1, STEPS, 4.0, "euler", "simple", *conds, latent)
    return out["samples"]


def hook(model, seed, strength=1.0, keyframes=()):
    file = low_rank_lora(model, layers=8, seed=seed)
    group = comfy.hooks.create_hook_lora(file, strength, 0.0)
    if keyframes:
        frames = comfy.hooks.HookKeyframeGroup()
        for start, factor in keyframes:
            frames.add(comfy.hooks.HookKeyframe(strength=factor, start_percent=start))
        group.set_keyframes_on_hooks(frames)
    return group


SCHEDULE = ((0.0, 1.0), (0.4, 0.3), (0.7, 0.0))


@pytest.mark.parametrize("keyframes", [(), SCHEDULE], ids=["constant", "scheduled"])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_of_each_conditioning(both, family, mode, keyframes):
    found = []
    for model in both:
        patched = model.clone()
        patched.set_hook_mode(mode)
        hooks = [hook(model, seed, 1.0, keyframes) for seed in (1, 2)]
        found.append(sample(patched, family, *hooks))
    assert relative_l2(found[1], found[0]) <= 1e-4
    assert relative_l2(sample(both[1], family), found[0]) > 3e-3


def test_on_top_of_a_lora(both, family):
    found = []
    for model in both:
        patched, _ = comfy.sd.load_lora_for_models(model, None, low_rank_lora(model), 0.8, 0)
        found.append(sample(patched, family, hook(model, 1)))
    assert relative_l2(found[1], found[0]) <= 1e-4


def test_two_on_one_conditioning(both, family):
    found = []
    for model in both:
        hooks = hook(model, 1, 0.7).clone_and_combine(hook(model, 2, -0.4, SCHEDULE))
        found.append(sample(model.clone(), family, hooks, hook(model, 3)))
    assert relative_l2(found[1], found[0]) <= 1e-4


def test_another_model_as_a_lora(both, family):
    """Its difference from the weights, which the host asks the coded ones for."""
    other = load_dense(tiny_state_dict(family, seed=5))
    found = []
    for model in both:
        weights = comfy.hooks.get_patch_weights_from_model(other)
        hooks = comfy.hooks.create_hook_model_as_lora(weights, None, 0.3, 0.0)
        found.append(sample(model.clone(), family, hooks))
    assert relative_l2(found[1], found[0]) <= 1e-4
    assert relative_l2(sample(both[1], family), found[0]) > 1e-2


def test_nothing_of_them_stays(both, family):
    model = both[0]
    before = sample(model, family)
    sample(model.clone(), family, hook(model, 1), hook(model, 2))
    assert torch.equal(sample(model, family), before)
    layers = model.coded_layers.values()
    assert all(is_coded(layer.weight) and layer.hook_patches is None for layer in layers)
