"""The soak's pictures, as prompts of the HTTP API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Graph = dict[str, dict[str, Any]]
Link = list[Any]
Loras = tuple[tuple[str, float], ...]

# Names of nodes.
LOAD = "load"
QUANTIZER = "quantizer"
SAMPLER = "sampler"


def file_name(stem: str) -> str:
    """The name of one of the soak's files, in whichever folder."""
    return f"soak-{stem}.safetensors"


@dataclass(frozen=True)
class Picture:
    """Something to render; its bytes follow from these fields.

    Attributes:
        family: of the model, ``sd15`` or ``flux``.
        source: ``file``, a VQ file; ``quantized`` in the graph from a dense model; ``baked``, which
            is the same with the LoRAs already on the dense model; ``dense``, without VQ.
        loras: kind and strength of each.
    """

    family: str
    source: str
    loras: Loras
    seed: int

    def __str__(self) -> str:
        loras = "".join(f", {name} {strength:g}" for name, strength in self.loras)
        return f"{self.family} {self.source}{loras}, seed {self.seed}"


def picture_graph(picture: Picture, nonce: int, steps: int = 2) -> Graph:
    """Loads or quantizes, samples, saves latents and, where there is an autoencoder, a picture.

    Args:
        nonce: changes no picture. The host's cache of results is keyed by it from the conditioning
            on, and every fourth number has a quantization made anew instead of read from disk.
    """
    graph: Graph = {}
    model = model_into(graph, picture, cache=nonce % 4 != 0)
    pooled = 768 if picture.family == "flux" else 0
    text = {"width": 64 if pooled else 768, "tokens": 12, "pooled_width": pooled, "nonce": nonce}
    add(graph, "positive", "TestConditioning", text="a lighthouse", **text)
    add(graph, "negative", "TestConditioning", text="", **text)
    latent = "EmptySD3LatentImage" if picture.family == "flux" else "EmptyLatentImage"
    add(graph, "latent", latent, width=64, height=64, batch_size=1)
    sampling = {"seed": picture.seed, "steps": steps, "cfg": 3.0, "denoise": 1.0}
    sampling |= {"sampler_name": "euler", "scheduler": "simple", "model": model}
    sampling |= {"positive": ["positive", 0], "negative": ["negative", 0]}
    add(graph, SAMPLER, "KSampler", latent_image=["latent", 0], **sampling)
    add(graph, "save", "SaveLatent", samples=[SAMPLER, 0], filename_prefix="soak/latent")
    if picture.family == "sd15":
        add(graph, "vae", "CheckpointLoaderSimple", ckpt_name=file_name("dense"))
        add(graph, "decode", "VAEDecode", samples=[SAMPLER, 0], vae=["vae", 2])
        add(graph, "picture", "SaveImage", images=["decode", 0], filename_prefix="soak/picture")
    return graph


def model_into(graph: Graph, picture: Picture, cache: bool = True) -> Link:
    """Adds what brings the model with its LoRAs, and returns the link to it."""
    if picture.source == "file":
        add(graph, LOAD, "LoadVQCheckpoint", vq_name=file_name(picture.family))
    elif picture.family == "sd15":
        add(graph, LOAD, "CheckpointLoaderSimple", ckpt_name=file_name("dense"))
    else:
        add(graph, LOAD, "UNETLoader", unet_name=file_name("dense"), weight_dtype="default")
    if picture.source == "baked":
        return quantize_into(graph, _with_loras(graph, [LOAD, 0], picture), cache)
    if picture.source == "quantized":
        return _with_loras(graph, quantize_into(graph, [LOAD, 0], cache), picture)
    return _with_loras(graph, [LOAD, 0], picture)


def quantize_into(graph: Graph, model: Link, cache: bool) -> Link:
    """Adds VQ Quantize Model, and returns the link to what it makes of ``model``."""
    settings = {"bits": "3.0", "effort": "fast", "exclude": "", "cache": cache}
    add(graph, QUANTIZER, "VQQuantizeModel", model=model, **settings)
    return [QUANTIZER, 0]


def _with_loras(graph: Graph, model: Link, picture: Picture) -> Link:
    for name, strength in picture.loras:
        file = file_name(f"{picture.family}-{name}")
        inputs = {"model": model, "lora_name": file, "strength_model": strength}
        add(graph, name, "LoraLoaderModelOnly", **inputs)
        model = [name, 0]
    return model


def add(graph: Graph, name: str, class_type: str, **inputs: Any) -> None:
    """Adds a node, in place of one of that name."""
    graph[name] = {"class_type": class_type, "inputs": inputs}
