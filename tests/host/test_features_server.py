"""Features in real prompts over HTTP: the same latents from a VQ file and from its decoded weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from comfy_vq import checkpoint
from host.features.control import control_lora_file
from host.features.files import folder_of
from host.features.graph import start, vq_of
from host.features.lora import lora_file
from host.sampling import relative_l2

LOADERS = {
    "vq": {"class_type": "LoadVQCheckpoint", "inputs": {"vq_name": "features.safetensors"}},
    "dense": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "decoded.safetensors", "weight_dtype": "default"},
    },
}


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


@pytest.fixture(scope="module")
def files(server):
    """A VQ file, its decoded weights, a LoRA and a Control-LoRA in the server's folders."""
    vq, graph = vq_of("sd15"), start("sd15", coded=True)
    checkpoint.save(server.models("vq") / "features.safetensors", vq)
    checkpoint.write_decoded(server.models("diffusion_models") / "decoded.safetensors", vq)
    names = {"loras": lora_file(graph), "controlnet": control_lora_file(graph)}
    for kind, name in names.items():
        server.models(kind).mkdir(exist_ok=True)
        shutil.copy(folder_of(kind) / name, server.models(kind) / name)
    return names


def latents(server, loader: str, prompt: dict, name: str) -> torch.Tensor:
    """What a prompt makes whose nodes take the MODEL of "load" and give latents in "end"."""
    save = node("SaveLatent", samples=["end", 0], filename_prefix=f"{name}-{loader}")
    record = server.run({**prompt, "load": LOADERS[loader], "save": save})
    (saved,) = record["outputs"]["save"]["latents"]
    return load_file(server.output / saved["subfolder"] / saved["filename"])["latent_tensor"]


def both(server, prompt: dict, name: str) -> torch.Tensor:
    """The latents, after a check that a VQ file and its decoded weights give the same."""
    expected, found = (latents(server, loader, prompt, name) for loader in ("dense", "vq"))
    assert relative_l2(expected, found) <= 1e-4
    return found


def sampler(**inputs) -> dict:
    defaults = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "euler", "scheduler": "simple"}
    defaults |= {"positive": ["+", 0], "negative": ["-", 0], "latent_image": ["empty", 0]}
    return node("KSampler", **{**defaults, "model": ["load", 0], "denoise": 1.0, **inputs})


BASE = {
    "+": node("TestConditioning", text="a", width=768, tokens=12, pooled_width=0),
    "-": node("TestConditioning", text="b", width=768, tokens=12, pooled_width=0),
    "empty": node("EmptyLatentImage", width=64, height=64, batch_size=1),
}


@pytest.fixture(scope="module")
def plain(server, files):
    return both(server, {**BASE, "end": sampler()}, "plain")


def test_lora_guidance_and_a_second_pass(server, files, plain):
    prompt = {
        **BASE,
        "lora": node(
            "LoraLoaderModelOnly", model=["load", 0], lora_name=files["loras"], strength_model=0.8
        ),
        "rescaled": node("RescaleCFG", model=["lora", 0], multiplier=0.7),
        "freed": node("FreeU_V2", model=["rescaled", 0], b1=1.3, b2=1.4, s1=0.9, s2=0.2),
        "first": sampler(model=["freed", 0]),
        "end": sampler(model=["freed", 0], latent_image=["first", 0], denoise=0.5),
    }
    assert relative_l2(plain, both(server, prompt, "lora")) > 1e-3


def test_lora_hook_on_a_prompt(server, files, plain):
    prompt = {
        **BASE,
        "hook": node("CreateHookLoraModelOnly", lora_name=files["loras"], strength_model=0.8),
        "late": node("CreateHookKeyframe", strength_mult=0.5, start_percent=0.0),
        "hooks": node("SetHookKeyframes", hooks=["hook", 0], hook_kf=["late", 0]),
        "hooked": node(
            "ConditioningSetProperties",
            cond_NEW=["+", 0],
            hooks=["hooks", 0],
            strength=1.0,
            set_cond_area="default",
        ),
        "end": sampler(positive=["hooked", 0]),
    }
    assert relative_l2(plain, both(server, prompt, "hook")) > 1e-3


def test_control_lora(server, files, plain):
    prompt = {
        **BASE,
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x3377AA),
        "control": node("ControlNetLoader", control_net_name=files["controlnet"]),
        "steered": node(
            "ControlNetApplyAdvanced",
            positive=["+", 0],
            negative=["-", 0],
            control_net=["control", 0],
            image=["picture", 0],
            strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ),
        "end": sampler(positive=["steered", 0], negative=["steered", 1]),
    }
    assert relative_l2(plain, both(server, prompt, "control")) > 1e-3


def test_merge_and_save(server, files, plain):
    prompt = {
        **BASE,
        "twice": node("ModelMergeAdd", model1=["load", 0], model2=["load", 0]),
        "half": node("ModelMergeSimple", model1=["twice", 0], model2=["load", 0], ratio=0.5),
        "written": node("ModelSave", model=["half", 0], filename_prefix="diffusion_models/merged"),
        "end": sampler(model=["half", 0]),
    }
    assert relative_l2(plain, both(server, prompt, "merge")) > 1e-3


def test_models_unloaded_by_the_interface(server, files, plain):
    """The button "Unload models", between two prompts that the server cannot answer from its cache."""
    prompt = {**BASE, "end": sampler(seed=2)}
    expected = latents(server, "vq", prompt, "before")
    server.post("/free", {"unload_models": True, "free_memory": False})
    assert torch.equal(plain, latents(server, "vq", {**BASE, "end": sampler()}, "between"))
    server.post("/free", {"unload_models": True, "free_memory": True})
    assert torch.equal(expected, latents(server, "vq", prompt, "after"))
