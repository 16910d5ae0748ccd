"""The shipped workflows as prompts for tiny models, on a real server."""

import json
import time

import torch
from comfy.taesd.taesd import TAESD
from PIL import Image
from safetensors.torch import save_file

from comfy_server import CHECKOUT, ComfyServer, messages
from host.families import tiny_state_dict
from host.ui_workflow import to_prompt

WORKFLOWS = CHECKOUT / "workflows"
CHECKPOINT = "tiny.safetensors"


def write_tiny_checkpoint(server: ComfyServer) -> None:
    """A full checkpoint but for the text encoder, with an autoencoder in the TAESD layout."""
    weights = tiny_state_dict("sd15")
    tensors = {f"model.diffusion_model.{key}": value for key, value in weights.items()}
    generator = torch.Generator().manual_seed(0)  # the host leaves weights uninitialized
    for key, empty in TAESD(latent_channels=4).state_dict().items():
        tensors[f"first_stage_model.{key}"] = 0.1 * torch.randn(empty.shape, generator=generator)
    save_file(tensors, server.models("checkpoints") / CHECKPOINT)


def runnable(server, name: str, encoders: bool = False, **changes) -> dict:
    """A shipped workflow as a prompt for tiny models: small, few steps, without a text encoder."""
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, server.object_info())
    replaced = {
        "CheckpointLoaderSimple": {"ckpt_name": CHECKPOINT},
        "EmptyLatentImage": {"width": 64, "height": 64},
        "KSampler": {"steps": 2},
        "VQQuantizeModel": {"effort": "fast"},
        "VQQuantizeCLIP": {"effort": "fast"},
        **changes,
    }
    for node in prompt.values():
        if node["class_type"] == "CLIPTextEncode" and not encoders:
            node["class_type"] = "TestConditioning"
            node["inputs"] = {"text": node["inputs"]["text"], "width": 768}
            node["inputs"] |= {"tokens": 12, "pooled_width": 0}
        node["inputs"] |= replaced.get(node["class_type"], {})
    return prompt


def output_of(prompt: dict, record: dict, class_type: str) -> dict:
    """Of the first node of a class."""
    return next(record["outputs"][k] for k, n in prompt.items() if n["class_type"] == class_type)


def painted(server, prompt: dict, record: dict) -> bytes:
    """The pixels of the picture that a prompt saved."""
    image = output_of(prompt, record, "SaveImage")["images"][0]
    picture = Image.open(server.output / image["subfolder"] / image["filename"])
    assert picture.size == (64, 64)
    return picture.tobytes()


def interrupted(server, prompt: dict) -> tuple[str, float]:
    """Interrupt a prompt six seconds after it has begun, amid its work.

    Returns:
        The class of the node that it was in, and after how many seconds that gave way.
    """
    prompt_id = server.post_prompt(prompt)
    while server.get("/queue")["queue_running"] == []:
        time.sleep(0.1)
    time.sleep(6)
    assert server.history(prompt_id) is None
    pressed = time.time()
    server.interrupt()
    (stopped,) = messages(server.wait(prompt_id, 30), "execution_interrupted")
    return stopped["node_type"], stopped["timestamp"] / 1000 - pressed
