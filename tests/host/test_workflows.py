"""The shipped workflows that need no data, run on a real server; interruption and bad files over HTTP.

The workflows of a release are golden: people's files store widget values by position.
"""

import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfy_server import CHECKOUT, PromptRefused, error_of
from comfy_vq import checkpoint
from comfy_vq.model import Component, VQModel
from host import testing_nodes
from host.encoders import random_encoders, tiny_encoders
from host.families import random_vq_model
from host.shipped_workflows import WORKFLOWS, interrupted, output_of, painted, runnable

VQ_FILE = "ComfyUI-VQ_00001_.safetensors"


@pytest.fixture(scope="module")
def text_encoders(server):
    """Tiny ones in files of their own, of the sizes that the server's ``testing_nodes`` ask for."""
    with tiny_encoders(testing_nodes.ENCODERS):
        encoders = random_encoders("flux", torch.float16)
    folder = server.models("text_encoders")
    folder.mkdir(parents=True, exist_ok=True)
    for name, weights in encoders.items():
        save_file(weights, folder / f"tiny_{name}.safetensors")
    return encoders


@pytest.fixture(scope="module")
def full_checkpoint(server, tiny_checkpoint, text_encoders):
    """A checkpoint with a text encoder."""
    tensors = load_file(server.models("checkpoints") / tiny_checkpoint)
    prefix = "cond_stage_model.transformer."
    tensors |= {prefix + key: tensor for key, tensor in text_encoders["clip_l"].items()}
    save_file(tensors, server.models("checkpoints") / "tiny-full.safetensors")
    return "tiny-full.safetensors"


@pytest.fixture(scope="module")
def saved(server, tiny_checkpoint):
    """The record of the first workflow, which writes the VQ file that the second one loads."""
    prompt = runnable(server, "quantize_and_save")
    return prompt, server.run(prompt)


def test_quantize_and_save(server, saved):
    prompt, record = saved
    image = output_of(prompt, record, "SaveImage")["images"][0]
    assert (server.output / image["subfolder"] / image["filename"]).is_file()
    path = server.output / "diffusion_models" / VQ_FILE
    assert output_of(prompt, record, "SaveVQCheckpoint")["text"] == [str(path)]
    header = checkpoint.inspect(path)
    assert header.bits_per_weight == pytest.approx(3.0, abs=0.02)
    report = output_of(prompt, record, "VQQuantizeModel")["text"][0]
    assert "asked for 3)" in report
    assert output_of(prompt, record, "PreviewAny")["text"] == [report]
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["prompt"]).keys() == prompt.keys()


def test_load_and_sample_paints_what_the_quantized_model_did(server, saved):
    prompt = runnable(server, "load_and_sample", SaveImage={"filename_prefix": "loaded"})
    records = [saved, (prompt, server.run(prompt))]
    images = [output_of(*record, "SaveImage")["images"][0] for record in records]
    pictures = [Image.open(server.output / i["subfolder"] / i["filename"]) for i in images]
    assert pictures[0].size == (64, 64)
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_a_full_checkpoint_needs_one_file(server, full_checkpoint):
    loader = {"ckpt_name": full_checkpoint}
    prompt = runnable(server, "full_checkpoint", True, CheckpointLoaderSimple=loader)
    record = server.run(prompt)
    path = server.output / "checkpoints" / "ComfyUI-VQ-full_00001_.safetensors"
    assert output_of(prompt, record, "SaveVQCheckpoint")["text"] == [str(path)]
    assert checkpoint.contents(path) == ("model", "clip", "vae")
    report = output_of(prompt, record, "VQQuantizeCLIP")["text"][0]
    assert "dB SQNR" in report and "asked for 4)" in report

    loaded = runnable(server, "load_full_checkpoint", True)
    pictures = [painted(server, *r) for r in ((prompt, record), (loaded, server.run(loaded)))]
    assert pictures[0] == pictures[1]

    frozen = {"vq_name": path.name}
    loader = {"ckpt_name": full_checkpoint}
    changes = {"LoadVQCheckpoint": frozen, "CheckpointLoaderSimple": loader}
    server.run(runnable(server, "load_and_sample", True, **changes))


def test_quantize_clip(server, text_encoders):
    files = {"clip_name1": "tiny_clip_l.safetensors", "clip_name2": "tiny_t5xxl.safetensors"}
    prompt = runnable(server, "quantize_clip", DualCLIPLoader=files)
    record = server.run(prompt)
    path = server.output / "text_encoders" / "ComfyUI-VQ_00001_.safetensors"
    assert output_of(prompt, record, "SaveVQCLIP")["text"] == [str(path)]
    header = checkpoint.inspect(path)
    assert header.components["clip"].about["type"] == "flux" and header.components["clip"].layers
    assert (
        header.components["clip"].source.name == "tiny_clip_l.safetensors + tiny_t5xxl.safetensors"
    )
    assert json.loads(header.metadata["prompt"]).keys() == prompt.keys()

    encode = {"text": "a fox", "clip": ["load", 0]}
    used = {
        "load": {"class_type": "LoadVQCLIP", "inputs": {"clip_name": path.name}},
        "encode": {"class_type": "CLIPTextEncode", "inputs": encode},
        "show": {"class_type": "PreviewAny", "inputs": {"source": ["encode", 0]}},
    }
    (shown,) = server.run(used)["outputs"]["show"]["text"]
    assert "pooled_output" in shown and "nan" not in shown
    # Which would make of it text encoders without weights, with no more than a warning in the log.
    options = server.object_info("CLIPLoader")["input"]["required"]["clip_name"][0]
    assert path.name not in options


def test_core_does_not_take_a_file_of_text_encoders_for_a_checkpoint(server):
    component = Component(VQModel({}, {"clip_l.transformer.x": torch.ones(3)}), {"type": "flux"})
    path = server.models("checkpoints") / "vq-clip.safetensors"
    checkpoint.save(path, VQModel({}, {}), components={"clip": component})
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": path.name}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "x"}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }
    assert "Could not detect model type" in error_of(server.wait(server.post_prompt(prompt)))


def quality_report(server, **inputs) -> dict:
    """The shipped workflow, with a VQ file of random weights."""
    checkpoint.save(server.models("vq") / "random.safetensors", random_vq_model("sd15"))
    changes = {"LoadVQCheckpoint": {"vq_name": "random.safetensors"}, "VQQualityReport": inputs}
    return runnable(server, "quality_report", **changes)


def test_quality_report(server, tiny_checkpoint):
    prompt = quality_report(server, steps=2, pictures=2)
    record = server.run(prompt)
    shown = output_of(prompt, record, "VQQualityReport")
    (text,) = shown["text"]
    assert "| tiny " in text and "| random " in text
    assert output_of(prompt, record, "PreviewAny")["text"] == [text]
    (folder,) = (server.output / "vq_reports").iterdir()
    assert folder.name == "tiny_00001_"
    assert (folder / "report.md").read_text(encoding="utf-8") == text
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (candidate,) = report["candidates"]
    assert candidate["size"]["nbytes"] == random_vq_model("sd15").nbytes
    assert candidate["noise"]["sqnr_db"]["value"] < 10
    assert (folder / "pictures.png").is_file()
    images = [*shown["images"], *output_of(prompt, record, "PreviewImage")["images"]]
    assert len(images) == 2 * len(list(folder.glob("*.png")))
    assert {image["type"] for image in images} == {"temp"}
    sizes = {Image.open(server.base / "temp" / i["subfolder"] / i["filename"]).size for i in images}
    assert len(sizes) == 1


def test_interrupting_a_quality_report(server, tiny_checkpoint):
    prompt = quality_report(server, steps=500, pictures=9)
    node, _ = interrupted(server, prompt)
    assert node == "VQQualityReport"


def test_the_drop_down_lists_vq_files_alone(server, saved):
    save_file({"x": torch.zeros(1)}, server.models("diffusion_models") / "dense.safetensors")
    checkpoint.save(server.models("vq") / "other.safetensors", random_vq_model("flux"))
    ((_, options),) = server.object_info("LoadVQCheckpoint")["input"]["required"].values()
    assert {VQ_FILE, "other.safetensors"} <= set(options["options"])
    assert "dense.safetensors" not in options["options"]


def test_stock_sampling_nodes_take_it(server):
    """Model sampling, guider and scheduler nodes, and both advanced samplers."""
    checkpoint.save(server.models("vq") / "flux.safetensors", random_vq_model("flux"))

    def node(class_type: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs}

    conditioning = {"text": "x", "width": 64, "tokens": 12, "pooled_width": 768}
    advanced = {"model": ["model", 0], "positive": ["cond", 0], "negative": ["cond", 0]}
    advanced |= {"add_noise": "enable", "noise_seed": 0, "steps": 3, "cfg": 1.0}
    advanced |= {"sampler_name": "euler", "scheduler": "simple", "latent_image": ["latent", 0]}
    advanced |= {"start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "disable"}
    shifts = {"max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 64}
    schedule = {"model": ["model", 0], "scheduler": "simple", "steps": 2, "denoise": 1.0}
    custom = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["sampler", 0]}
    custom |= {"sigmas": ["sigmas", 0], "latent_image": ["latent", 0]}
    prompt = {
        "load": node("LoadVQCheckpoint", vq_name="flux.safetensors"),
        "model": node("ModelSamplingFlux", model=["load", 0], **shifts),
        "cond": node("TestConditioning", **conditioning),
        "latent": node("EmptySD3LatentImage", width=64, height=64, batch_size=1),
        "noise": node("RandomNoise", noise_seed=0),
        "guider": node("BasicGuider", model=["model", 0], conditioning=["cond", 0]),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", **schedule),
        "custom": node("SamplerCustomAdvanced", **custom),
        "advanced": node("KSamplerAdvanced", **advanced),
        "save 1": node("SaveLatent", samples=["custom", 0], filename_prefix="custom"),
        "save 2": node("SaveLatent", samples=["advanced", 0], filename_prefix="advanced"),
    }
    record = server.run(prompt)
    assert all(record["outputs"][name]["latents"] for name in ("save 1", "save 2"))


@pytest.mark.parametrize("plan", ["table", "measured"])
def test_interrupting_takes_effect_within_two_seconds(server, tiny_checkpoint, plan):
    slow = {"effort": "best", "bits": 4.0, "codec": "additive", "plan": plan}
    prompt = runnable(server, "quantize_and_save", VQQuantizeModel=slow)
    node, seconds = interrupted(server, prompt)
    assert node == "VQQuantizeModel"
    print(f"interrupted after {seconds:.2f} s")
    assert seconds < 2


def test_a_damaged_file_is_a_readable_node_error(server, saved):
    whole = (server.output / "diffusion_models" / VQ_FILE).read_bytes()
    (server.models("vq") / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    changes = {"LoadVQCheckpoint": {"vq_name": "damaged.safetensors"}}
    prompt = runnable(server, "load_and_sample", **changes)
    error = error_of(server.wait(server.post_prompt(prompt)))
    assert error.startswith("LoadVQCheckpoint: ") and "damaged.safetensors" in error
    assert "cut short" in error
    assert server.alive()
    server.run(runnable(server, "load_and_sample"))


def test_a_missing_file_is_refused_before_anything_runs(server, saved):
    prompt = runnable(server, "load_and_sample", LoadVQCheckpoint={"vq_name": "gone.safetensors"})
    with pytest.raises(PromptRefused, match="gone.safetensors"):
        server.post_prompt(prompt)


def test_a_dense_model_cannot_be_saved_as_vq(server, tiny_checkpoint):
    prompt = runnable(server, "quantize_and_save")
    quantize = next(k for k, n in prompt.items() if n["class_type"] == "VQQuantizeModel")
    dense = prompt[quantize]["inputs"]["model"]
    save = next(n for n in prompt.values() if n["class_type"] == "SaveVQCheckpoint")
    save["inputs"]["model"] = dense
    record = server.wait(server.post_prompt({dense[0]: prompt[dense[0]], "99": save}))
    assert "put VQ Quantize Model before" in error_of(record)


@pytest.mark.parametrize("loader", ["UNETLoader", "CheckpointLoaderSimple"])
def test_core_loaders_give_a_readable_error(server, loader):
    kind = "diffusion_models" if loader == "UNETLoader" else "checkpoints"
    checkpoint.save(server.models(kind) / "vq.safetensors", random_vq_model("flux"))
    inputs = {"unet_name": "vq.safetensors", "weight_dtype": "default"}
    if loader != "UNETLoader":
        inputs = {"ckpt_name": "vq.safetensors"}
    save = {"model": ["1", 0], "filename_prefix": "x"}
    prompt = {"1": {"class_type": loader, "inputs": inputs}}
    prompt["2"] = {"class_type": "ModelSave", "inputs": save}
    assert "Could not detect model type" in error_of(server.wait(server.post_prompt(prompt)))


def test_help_and_templates_are_served(server):
    nodes = json.loads((CHECKOUT / "tests/host/nodes/interface.json").read_text(encoding="utf-8"))
    folder = server.extension.name
    for node in nodes:
        page = server.get_bytes(f"/extensions/{folder}/docs/{node}.md").decode()
        assert page.startswith("# ") and "## Inputs" in page
    templates = server.get("/workflow_templates")[folder]
    assert sorted(templates) == sorted(path.stem for path in WORKFLOWS.glob("*.json"))
