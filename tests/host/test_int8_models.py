"""int8 compute of whole models: through nodes, samplers, clones and LoRAs."""

import comfy.lora
import comfy.model_management
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP

from benchmarks.adapters import adapter
from comfy_server import PromptRefused
from comfy_vq import checkpoint
from comfy_vq.hosts.comfy.model.compute_mode import compute_as, mode_of
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.hosts.comfy.model.ops import VQOperations
from comfy_vq.hosts.comfy.quantizing import quantize_model
from comfy_vq.nodes.load_checkpoint import LoadVQCheckpoint
from comfy_vq.nodes.quantize_model import VQQuantizeModel
from host.families import random_vq_model, tiny_state_dict
from host.sampling import load_dense, predict, relative_l2, sample


@pytest.fixture(scope="module", params=["flux", "sd15"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def vq(family):
    return random_vq_model(family)


def test_a_sampled_model_differs_a_little_and_the_same_way_each_time(vq, family):
    exact, model = load(InMemory(vq)), compute_as(load(InMemory(vq)), "int8")
    pictures = [sample(model, family, steps=3) for _ in range(2)]
    assert 0 < relative_l2(sample(exact, family, steps=3), pictures[0]) < 0.1
    sample(model, family, steps=2, seed=9)
    pictures.append(sample(model, family, steps=3))
    assert all(torch.equal(picture, pictures[0]) for picture in pictures[1:])
    assert torch.equal(predict(model, family), predict(exact, family))


def test_the_first_evaluation_is_exact(vq, family):
    exact, model = load(InMemory(vq)), compute_as(load(InMemory(vq)), "int8")
    assert torch.equal(sample(model, family, steps=1), sample(exact, family, steps=1))


def test_where_all_layers_refuse_it_equals_exact(vq, family, monkeypatch):
    model = compute_as(load(InMemory(vq)), "int8")
    for layer in model.model.modules():
        if isinstance(layer, VQOperations.Linear) and layer.compute is not None:
            monkeypatch.setattr(layer.compute, "limit", 1e-12)
    expected = sample(load(InMemory(vq)), family, steps=3)
    assert torch.equal(sample(model, family, steps=3), expected)
    choices = mode_of(model.model).choices
    assert choices and not any(choice.int8 for choice in choices)


def test_does_not_depend_on_whether_guidance_is_batched(vq, family, monkeypatch):
    """Which depends on the memory that is free at the time."""
    model = compute_as(load(InMemory(vq)), "int8")
    sample(model, family)
    together = [(choice.name, choice.int8) for choice in mode_of(model.model).choices]
    calls = []
    apply = model.model.apply_model
    monkeypatch.setattr(
        model.model, "apply_model", lambda x, *a, **k: calls.append(len(x)) or apply(x, *a, **k)
    )
    sample(model, family, steps=1)
    monkeypatch.setattr(type(model.model), "memory_required", lambda *a, **k: 1e30)
    sample(model, family)
    assert calls == [2, 1, 1, 1, 1]
    assert [(choice.name, choice.int8) for choice in mode_of(model.model).choices] == together


def test_exact_leaves_a_model_alone(vq):
    model = load(InMemory(vq))
    rebuild = model.cached_patcher_init
    assert compute_as(model, "exact") is model and mode_of(model.model) is None
    assert model.cached_patcher_init is rebuild and not model.get_all_wrappers(
        WrappersMP.SAMPLER_SAMPLE
    )


def test_clones_and_rebuilt_models_compute_alike(vq, family):
    model = compute_as(load(InMemory(vq)), "int8")
    expected = sample(model, family, steps=3)
    rebuild, arguments = model.cached_patcher_init
    again = rebuild(*arguments, disable_dynamic=True)
    assert again.model is not model.model and origin_of(again) is origin_of(model)
    assert again.cached_patcher_init == model.cached_patcher_init
    for other in (model.clone(), again, again.clone()):
        assert torch.equal(sample(other, family, steps=3), expected)


def with_adapter(model, kind):
    """A MODEL with an adapter of a kind on all its coded linear layers."""
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    shapes = {
        name: tuple(model.coded_layers[key].weight.shape)
        for name, key in names.items()
        if key in model.coded_layers and model.coded_layers[key].weight.ndim == 2
    }
    return comfy.sd.load_lora_for_models(model, None, adapter(kind, shapes), 0.3, 0)[0]


def test_layers_whose_weight_is_patched_are_exact(vq, family):
    """Their weights come dense; the others may still compute in int8."""
    patched = with_adapter(compute_as(load(InMemory(vq)), "int8"), "dora")
    exact = with_adapter(load(InMemory(vq)), "dora")
    assert torch.equal(sample(patched, family, steps=3), sample(exact, family, steps=3))
    touched = {key.removesuffix(".weight") for key in patched.patches}
    ran = {f"diffusion_model.{choice.name}" for choice in mode_of(patched.model).choices}
    assert touched and not touched & ran
    comfy.model_management.unload_all_models()


def test_a_lora_runs_exactly_beside_int8(vq, family):
    """What computing in int8 costs is about what it costs without the LoRA."""
    exact, int8 = load(InMemory(vq)), compute_as(load(InMemory(vq)), "int8")
    costs = []
    for patched in (lambda model: model, lambda model: with_adapter(model, "lora")):
        expected = sample(patched(exact), family, steps=3)
        costs.append(relative_l2(expected, sample(patched(int8), family, steps=3)))
        assert any(choice.int8 for choice in mode_of(int8.model).choices)
    effect = relative_l2(sample(exact, family, steps=3), expected)
    assert 0 < costs[1] < 2 * costs[0] < effect
    comfy.model_management.unload_all_models()


def test_a_quantized_model_computes_as_asked():
    dense = load_dense(tiny_state_dict("flux"))
    quantized, _ = quantize_model(dense, 3.0, "fast", "", compute="int8")
    expected, _ = quantize_model(dense, 3.0, "fast", "")
    assert mode_of(dense.model) is None and mode_of(expected.model).name == "auto"
    assert relative_l2(sample(expected, "flux", 3), sample(quantized, "flux", 3)) < 0.05
    assert any(choice.int8 for choice in mode_of(quantized.model).choices)


@pytest.mark.parametrize("node", [LoadVQCheckpoint, VQQuantizeModel])
def test_workflows_from_before_there_was_a_choice_are_valid(node):
    info = node.GET_NODE_INFO_V1()
    assert "compute" not in info["input"]["required"]
    optional = info["input_order"]["optional"]
    assert optional[optional.index("compute") :][:2] == ["compute", "spare_vram"]


def test_in_a_graph_the_log_says_how_many_layers(server):
    checkpoint.save(server.models("vq") / "int8.safetensors", random_vq_model("flux"))

    def node(class_type, **inputs):
        return {"class_type": class_type, "inputs": inputs}

    sampling = {"seed": 0, "steps": 3, "cfg": 1.0, "denoise": 1.0}
    sampling |= {"sampler_name": "euler", "scheduler": "simple", "latent_image": ["latent", 0]}
    prompt = {
        "load": node("LoadVQCheckpoint", vq_name="int8.safetensors", compute="int8"),
        "cond": node("TestConditioning", text="x", width=64, tokens=12, pooled_width=768),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "sample": node(
            "KSampler",
            **{"model": ["load", 0], "positive": ["cond", 0], "negative": ["cond", 0], **sampling},
        ),
        "save": node("SaveLatent", samples=["sample", 0], filename_prefix="int8"),
    }
    server.run(prompt)
    found = server.wait_for_log(r"VQ: int8 for (\d+) of (\d+) linear layers")
    assert 0 < int(found[1]) < int(found[2])
    prompt["load"]["inputs"]["compute"] = "sometimes"
    with pytest.raises(PromptRefused, match="sometimes"):
        server.post_prompt(prompt)
