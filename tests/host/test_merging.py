"""The host's merge nodes with VQ models, against the same merge of the dense models they decode to."""

import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import (
    ModelAdd,
    ModelMergeBlocks,
    ModelMergeSimple,
    ModelSave,
    ModelSubtract,
)

from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.files.saving import save_model
from comfy_vq.hosts.comfy.model.loader import InMemory, load, origin_of
from comfy_vq.hosts.comfy.quantizing import quantize_model
from host.families import random_vq_model, tiny_state_dict
from host.loras import low_rank_lora
from host.sampling import load_dense, relative_l2, sample

FAMILIES = ("sd15", "flux")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def models(family):
    """Two models by name, and the dense twin of each."""
    first, second = random_vq_model(family), random_vq_model(family, seed=7)
    dense = load_dense(tiny_state_dict(family, seed=3))
    return {
        "VQ": (load(InMemory(first)), load_dense(first.decode(torch.float32))),
        "other VQ": (load(InMemory(second)), load_dense(second.decode(torch.float32))),
        "dense": (dense, dense),
    }


PAIRS = [("VQ", "dense"), ("dense", "VQ"), ("VQ", "other VQ")]


@pytest.mark.parametrize("pair", PAIRS, ids=" with ".join)
@pytest.mark.parametrize("loras", [False, True], ids=["plain", "LoRA on both"])
def test_simple(models, family, pair, loras):
    found = []
    for twin in (0, 1):
        chosen = [models[name][twin] for name in pair]
        if loras:
            chosen = [with_lora(model, seed) for seed, model in enumerate(chosen)]
        (merged,) = ModelMergeSimple().merge(*chosen, 0.3)
        found.append(sample(merged, family))
    assert relative_l2(found[1], found[0]) <= 1e-4
    assert relative_l2(sample(models[pair[0]][1], family), found[0]) > 1e-2


def with_lora(model, seed):
    return comfy.sd.load_lora_for_models(model, None, low_rank_lora(model, seed=seed), 0.8, 0)[0]


@pytest.mark.parametrize("pair", PAIRS, ids=" with ".join)
@pytest.mark.parametrize("node", [ModelAdd, ModelSubtract], ids=lambda node: node.__name__)
def test_sum_and_difference(models, family, pair, node):
    found = []
    for twin in (0, 1):
        chosen = [models[name][twin] for name in pair]
        arguments = (0.4,) if node is ModelSubtract else ()
        (merged,) = node().merge(*chosen, *arguments)
        found.append(sample(merged, family))
    assert relative_l2(found[1], found[0]) <= 1e-4


def test_by_blocks(models):
    (vq, dense), other = models["VQ"], models["dense"][0]
    if type(vq.model).__name__ != "BaseModel":
        pytest.skip("the node knows UNets' blocks")
    shares = {"input": 0.2, "middle": 0.5, "out": 0.9}
    found = [ModelMergeBlocks().merge(model, other, **shares)[0] for model in (vq, dense)]
    assert relative_l2(sample(found[1], "sd15"), sample(found[0], "sd15")) <= 1e-4


def test_the_first_model_says_what_the_merge_is(models):
    """A VQ model that carries the other one as patches, or a dense model."""
    for pair, coded in zip(PAIRS, (True, False, True), strict=True):
        (merged,) = ModelMergeSimple().merge(*[models[name][0] for name in pair], 0.3)
        assert (origin_of(merged) is not None) == coded
        if coded:
            assert set(merged.patches) <= set(models["VQ"][1].model.state_dict())


def test_a_merge_that_is_vq_cannot_be_saved_or_quantized_as_it_is(models):
    (merged,) = ModelMergeSimple().merge(models["VQ"][0], models["dense"][0], 0.3)
    with pytest.raises(VQError, match="ModelSave"):
        save_model(merged, "x")
    with pytest.raises(VQError, match="ModelSave"):
        quantize_model(merged, 4.0, "fast", "")


def test_a_merge_that_is_dense_can_be_quantized(models, family):
    pair = models["dense"][0], models["VQ"][0]
    (merged,) = ModelMergeSimple().merge(*pair, 0.3)
    quantized, _ = quantize_model(merged, 6.0, "fast", "")
    assert relative_l2(sample(merged, family), sample(quantized, family)) < 0.2


def test_core_saves_a_merge_as_the_dense_model_that_it_is(models, family, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    (merged,) = ModelMergeSimple().merge(models["VQ"][0], models["other VQ"][0], 0.3)
    ModelSave().save(merged, "merged")
    saved = comfy.sd.load_diffusion_model(str(tmp_path / "merged_00001_.safetensors"))
    assert relative_l2(sample(merged, family), sample(saved, family)) <= 1e-4
