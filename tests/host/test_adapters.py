"""Adapters of every kind on a VQ model, against the dense model that holds its decoded weights."""

import comfy.lora
import comfy.sd
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter

from benchmarks.adapters import BESIDE, FOR_CONVOLUTIONS, KINDS, adapter
from comfy_vq.hosts.comfy.model.layout import is_coded
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from host.families import random_vq_model
from host.sampling import load_dense, predict, relative_l2, sample

CPU = torch.device("cpu")
LAYERS = {
    "Linear": [
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "input_blocks.1.1.transformer_blocks.0.ff.net.2",
    ],
    "Conv2d": ["input_blocks.1.0.in_layers.2", "output_blocks.0.0.skip_connection"],
}
LOADS = {"full": 0, "low VRAM": 1, "half": None}
"""Bytes of weights to load; 0 is all of them, as the host has it."""


@pytest.fixture(scope="module")
def vq():
    return random_vq_model("sd15")


@pytest.fixture(scope="module")
def dense(vq):
    return load_dense(vq.decode(torch.float32))


@pytest.fixture(scope="module")
def model(vq):
    return load(InMemory(vq))


def with_adapter(model, file, strength=0.8):
    patched, _ = comfy.sd.load_lora_for_models(model, None, file, strength, 0)
    return patched


def loaded(model, budget=0, family="sd15"):
    """What a MODEL predicts that is loaded with so many bytes for weights."""
    budget = model.model_size() // 2 if budget is None else budget
    model.patch_model(CPU, lowvram_model_memory=budget)
    try:
        return predict(model, family)
    finally:
        model.unpatch_model(CPU)


def shapes(model, layers):
    """Of layers, by the names that LoRA files have for them."""
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    wanted = {f"diffusion_model.{layer}.weight" for layer in layers}
    named = {key: name for name, key in keys.items() if key in wanted}
    assert len(named) == len(layers)
    modules = dict(model.model.named_modules())
    return {n: tuple(modules[k.removesuffix(".weight")].weight.shape) for k, n in named.items()}


CASES = [
    (kind, layers)
    for kind in KINDS
    for layers in LAYERS
    if layers == "Conv2d" or kind not in FOR_CONVOLUTIONS
]


@pytest.mark.parametrize(("kind", "layers"), CASES)
def test_gives_what_it_gives_on_the_decoded_weights(model, dense, kind, layers, caplog):
    file = adapter(kind, shapes(model, LAYERS[layers]))
    expected = loaded(with_adapter(dense, file))
    patched = with_adapter(model, file)
    assert len(patched.patches) == len(LAYERS[layers])
    for name, budget in LOADS.items():
        assert relative_l2(expected, loaded(patched, budget)) <= 1e-4, name
    assert relative_l2(expected, loaded(model)) > 3e-3  # it does something
    made = patched.made_patches().values()
    assert all((patches.beside is not None) == (kind in BESIDE) for patches in made)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_several_kinds_on_the_same_weights(model, dense):
    """In the order of the loaders; a LoRA before or after what needs the weight goes into it too."""
    kinds = ["lora", "dora", "lora without alpha", "lokr", "diff"]
    names = shapes(model, LAYERS["Linear"])
    both = [model, dense]
    for seed, kind in enumerate(kinds):
        both = [with_adapter(m, adapter(kind, names, seed=seed)) for m in both]
    expected = loaded(both[1])
    for budget in LOADS.values():
        assert relative_l2(expected, loaded(both[0], budget)) <= 1e-4


def test_loras_are_merged_into_one_pair_of_products(model, dense):
    names = shapes(model, LAYERS["Linear"] + LAYERS["Conv2d"])
    both = [model, dense]
    for seed in range(3):
        file = adapter("lora", names, rank=4 + seed, seed=seed)
        both = [with_adapter(m, file, strength=0.5 + seed) for m in both]
    assert {p.beside.rank for p in both[0].made_patches().values()} == {4 + 5 + 6}
    assert relative_l2(loaded(both[1]), loaded(both[0])) <= 1e-5


def test_ranks_beyond_what_pays_go_into_the_weight(model, dense):
    names = shapes(model, LAYERS["Linear"][:1])
    ((rows, columns),) = names.values()
    rank = rows * columns // (rows + columns) + 1
    both = [with_adapter(m, adapter("lora", names, rank=rank)) for m in (model, dense)]
    (patches,) = both[0].made_patches().values()
    assert patches.beside is None
    assert relative_l2(loaded(both[1]), loaded(both[0])) <= 1e-4


def test_at_no_strength_it_costs_nothing(model):
    patched = with_adapter(model, adapter("lora", shapes(model, LAYERS["Linear"])), strength=0.0)
    assert all(patches.idle for patches in patched.made_patches().values())
    assert torch.equal(loaded(patched), loaded(model))
    assert patched.model_size() == model.model_size()


def test_parts_of_fused_weights(dense):
    """LoRAs in the layout of diffusers have queries, keys and values apart; Flux holds them fused."""
    vq = random_vq_model("flux")
    both = [load(InMemory(vq)), load_dense(vq.decode(torch.float32))]
    names = {
        f"transformer.transformer_blocks.0.attn.to_{part}": (128, 128)
        for part in ("q", "k", "v", "out.0")
    }
    names["transformer.single_transformer_blocks.0.proj_mlp"] = (512, 128)
    file = adapter("lora", names)
    both = [with_adapter(m, file) for m in both]
    made = both[0].made_patches()
    assert made["diffusion_model.double_blocks.0.img_attn.qkv.weight"].beside.rank == 3 * 4
    expected = loaded(both[1], family="flux")
    for budget in LOADS.values():
        assert relative_l2(expected, loaded(both[0], budget, "flux")) <= 1e-4
    assert relative_l2(expected, loaded(load(InMemory(vq)), family="flux")) > 1e-3


def test_a_change_of_strength_touches_no_weight(model):
    names = shapes(model, LAYERS["Linear"] + LAYERS["Conv2d"])
    file = adapter("lora", names)

    def codes():
        return {k: layer.weight._qdata.data_ptr() for k, layer in model.coded_layers.items()}

    before, seen = codes(), []
    for strength in (0.2, 0.9, -0.5):
        seen.append(sample(with_adapter(model, file, strength), "sd15"))
        assert codes() == before
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])
    assert torch.equal(sample(with_adapter(model, file, 0.2), "sd15"), seen[0])


@pytest.mark.parametrize("dim", [0, 1])
def test_parts_of_rows_and_of_columns(model, dense, dim):
    key = f"diffusion_model.{LAYERS['Linear'][1]}.weight"
    rows, columns = dense.model.state_dict()[key].shape
    length = (rows, columns)[dim] // 4
    part = (length, columns) if dim == 0 else (rows, length)
    tensors = adapter("lora", {"x": part})
    weights = (tensors["x.lora_up.weight"], tensors["x.lora_down.weight"], 2.0, None, None, None)
    both = [m.clone() for m in (model, dense)]
    for patched in both:
        offset = (dim, length, length)
        patched.add_patches({(key, offset): LoRAAdapter(set(), weights)}, 0.8)
    assert both[0].made_patches()[key].beside is not None
    assert relative_l2(loaded(both[1]), loaded(both[0])) <= 1e-5
    assert relative_l2(loaded(dense), loaded(both[0])) > 1e-3


def test_biases_and_norms_are_patched_by_the_host(model, dense):
    (name,) = shapes(model, LAYERS["Linear"][1:])
    file = {f"{name}.diff_b": torch.randn(320, generator=torch.Generator().manual_seed(0))}
    both = [with_adapter(m, file) for m in (model, dense)]
    assert len(both[0].patches) == 1
    for budget in LOADS.values():
        assert relative_l2(loaded(both[1]), loaded(both[0], budget)) <= 1e-4


def test_a_lora_that_widens_a_layer():
    """Such as Flux control LoRAs; the host's network looks at the new shape."""
    vq = random_vq_model("flux")
    file = adapter("lora", {"diffusion_model.img_in": (128, 128)})
    file["diffusion_model.img_in.reshape_weight"] = torch.tensor([128, 128])
    both = [load(InMemory(vq)), load_dense(vq.decode(torch.float32))]
    both = [with_adapter(m, file) for m in both]
    assert relative_l2(sample(both[1], "flux"), sample(both[0], "flux")) <= 1e-4
    plain = load(InMemory(vq))
    assert relative_l2(sample(plain, "flux"), sample(both[0], "flux")) > 1e-3
    img_in = both[0].model.diffusion_model.img_in
    both[0].unpatch_model(CPU)
    assert is_coded(img_in.weight) and img_in.weight.shape == (128, 64)


def test_a_damaged_adapter_is_left_out_as_the_host_leaves_it_out(model, dense):
    """Factors that do not fit the weight: the host logs an error and goes on without them."""
    (name,) = shapes(model, LAYERS["Linear"][:1])
    file = adapter("lora", {name: (320, 96)})
    both = [with_adapter(m, file) for m in (model, dense)]
    assert both[0].made_patches()[f"diffusion_model.{LAYERS['Linear'][0]}.weight"].beside is None
    assert relative_l2(loaded(both[1]), loaded(both[0])) <= 1e-5
