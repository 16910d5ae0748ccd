"""Every kind of text encoders that a file can tell is one that the host builds again from a file."""

import inspect

import comfy.sd
import comfy.sd1_clip
import pytest
import torch

from comfy_vq.errors import VQError
from comfy_vq.hosts.comfy.clip import types as clip_types
from comfy_vq.hosts.comfy.clip.encoders import refuse_unbuildable
from comfy_vq.hosts.comfy.clip.types import MODEL, TOKENIZER, TYPE, about, class_name
from comfy_vq.model import Component, Source, VQModel

# How the host's module makes such a model out of a class that its function takes as an argument.
OPTIONS = {"ACE15TEModel": {"lm_model": "qwen3_2b"}}


@pytest.fixture(autouse=True)
def without_vocabularies(monkeypatch):
    """Some tokenizers want files that come with weights; here only their classes count."""
    monkeypatch.setattr(comfy.sd1_clip.SDTokenizer, "__init__", lambda self, *a, **k: None)
    monkeypatch.setattr(comfy.text_encoders.flux, "load_mistral_tokenizer", lambda data: {})


def host_classes() -> dict[str, type]:
    """All classes of text encoders that this host has, by name."""
    found = {}
    modules = [comfy.sd1_clip, comfy.sdxl_clip]
    modules += [m for m in vars(comfy.text_encoders).values() if inspect.ismodule(m)]
    for module in modules:
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                found[name] = cls
    return found


def empty_component(model: torch.nn.Module, tokenizer: str, clip_type: str) -> Component:
    dense = {key: torch.empty_like(t, device="meta") for key, t in model.state_dict().items()}
    facts = {MODEL: class_name(type(model)), TOKENIZER: tokenizer, TYPE: clip_type}
    return Component(VQModel({}, dense, Source("empty")), facts)


@pytest.mark.parametrize("name", sorted(clip_types._TYPES))
def test_the_host_makes_the_class_of_the_type(name):
    cls = host_classes()[name]
    model = cls(device="meta", dtype=torch.float16, model_options={}, **OPTIONS.get(name, {}))
    component = empty_component(model, "?", clip_types._TYPES[name])
    with pytest.raises(VQError, match="tokenizer of the text encoders: found '\\?'") as error:
        refuse_unbuildable(component)
    made = str(error.value).split("makes '")[1].split("'")[0]
    refuse_unbuildable(Component(component.model, {**component.about, TOKENIZER: made}))


@pytest.mark.parametrize("name", ["Qwen35TEModel", "Qwen3VLTEModel"])
def test_what_the_host_would_not_build_again_is_refused_before_it_is_written(name):
    """Its loader of files expects other keys than its models have."""
    model = host_classes()[name](device="meta", dtype=torch.float16, model_options={})
    with pytest.raises(VQError, match="use VQ Quantize CLIP within the workflow"):
        refuse_unbuildable(empty_component(model, "?", "qwen_image"))


def test_what_has_no_type_is_refused():
    """The host makes it of full checkpoints alone."""
    model = host_classes()["HyditModel"](device="meta", dtype=torch.float16, model_options={})
    component = empty_component(model, "HyditTokenizer", "")
    del component.about[TYPE]
    with pytest.raises(VQError, match="class HyditModel, of which it is not known how to build"):
        refuse_unbuildable(component)


def test_no_more_or_less_than_what_was_stored_is_accepted():
    model = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
    component = empty_component(model, "SD1Tokenizer", "stable_diffusion")
    del component.model.dense["clip_l.transformer.text_model.final_layer_norm.bias"]
    with pytest.raises(
        VQError, match="differs .* in 1 weights; .*final_layer_norm.bias is not stored"
    ):
        refuse_unbuildable(component)


def test_a_type_by_which_the_clip_was_loaded_is_kept():
    model = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
    weights = model.clip_l.transformer.state_dict()
    options = {"initial_device": torch.device("meta")}
    clip = comfy.sd.load_text_encoder_state_dicts(
        [weights], clip_type=comfy.sd.CLIPType.SD3, model_options=options
    )
    assert about(clip) == {MODEL: "SD3ClipModel", TOKENIZER: "SD3Tokenizer", TYPE: "sd3"}
    by_type = (comfy.sd.load_clip_model_patcher, (["a"], None, comfy.sd.CLIPType.HIDREAM, {}))
    clip.patcher.cached_patcher_init = by_type
    assert about(clip)[TYPE] == "hidream"
