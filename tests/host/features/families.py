"""Nodes and ways to work that belong to one model family."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor

from host.features.feature import Feature, patched
from host.features.files import picture
from host.features.graph import Graph, call, one, sample, start
from host.features.lora import with_lora
from host.features.sampling import custom


def _refined(graph: Graph) -> Tensor:
    """The first steps by SDXL, the last ones by its refiner, both with a LoRA."""
    refiner = start("sdxl-refiner", graph.coded)
    common = {"noise_seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "euler"}
    common |= {"scheduler": "simple"}
    first = one(
        "KSamplerAdvanced",
        model=with_lora(graph).model,
        positive=graph.positive,
        negative=graph.negative,
        latent_image=graph.latent,
        add_noise="enable",
        start_at_step=0,
        end_at_step=3,
        return_with_leftover_noise="enable",
        **common,
    )
    return one(
        "KSamplerAdvanced",
        model=with_lora(refiner).model,
        positive=refiner.positive,
        negative=refiner.negative,
        latent_image=first,
        add_noise="disable",
        start_at_step=3,
        end_at_step=4,
        return_with_leftover_noise="disable",
        **common,
    )["samples"]


def _four_steps(graph: Graph) -> Tensor:
    return sample(graph.with_(steps=4, cfg=3.0))


def _with_lora(graph: Graph) -> Tensor:
    return sample(with_lora(graph))


def _autoregressive(graph: Graph) -> Tensor:
    """Frame by frame, from a picture. The autoencoder of videos is a stand-in."""
    encoded = torch.randn((1, 16, 1, 8, 8), generator=torch.Generator().manual_seed(17))
    autoencoder = SimpleNamespace(encode=lambda pixels: encoded)
    size = {"width": 64, "height": 64, "length": 9}
    model, latent = call(
        "ARVideoI2V", model=graph.model, vae=autoencoder, start_image=picture(64), **size
    )
    return _frame_by_frame(graph.with_(model=model, latent=latent))


def _autoregressive_text(graph: Graph) -> Tensor:
    latent = one("EmptyARVideoLatent", width=64, height=64, length=9)
    return _frame_by_frame(graph.with_(latent=latent))


def _frame_by_frame(graph: Graph) -> Tensor:
    guider = one("BasicGuider", model=graph.model, conditioning=graph.positive)
    return custom(graph, guider, one("SamplerARVideo"))


def _larger(graph: Graph) -> Graph:
    """The node leaves a margin of 32 pixels alone."""
    return graph.with_(latent={"samples": torch.zeros((1, 3, 128, 128))})


def _larger_without(graph: Graph) -> Tensor:
    return sample(_larger(graph))


def _without_seams(graph: Graph) -> Tensor:
    model = one("HiDreamO1PatchSeamSmoothing", model=graph.model, start_percent=0.0)
    return sample(_larger(graph).with_(model=model))


FEATURES = [
    Feature(
        "SDXL and its refiner, each with a LoRA",
        ("KSamplerAdvanced", "LoraLoaderModelOnly"),
        "sdxl",
        _refined,
        _four_steps,
        slow=True,
    ),
    Feature(
        "SDXL refiner with a LoRA", ("LoraLoaderModelOnly",), "sdxl-refiner", _with_lora, slow=True
    ),
    Feature(
        "Temporal attention scaled (Stable Video Diffusion)",
        ("UNetTemporalAttentionMultiply",),
        "svd",
        patched("UNetTemporalAttentionMultiply", self_temporal=1.5, cross_temporal=0.5),
        slow=True,
    ),
    Feature(
        "Autoregressive Wan, from a picture",
        ("ARVideoI2V", "SamplerARVideo"),
        "wan-causal-ar",
        _autoregressive,
        _autoregressive_text,
    ),
    Feature(
        "Chroma Radiance options",
        ("ChromaRadianceOptions",),
        "chroma-radiance",
        patched("ChromaRadianceOptions", force_sequential_txt_ids=True),
    ),
    Feature(
        "Seam smoothing of HiDream-O1",
        ("HiDreamO1PatchSeamSmoothing",),
        "hidream-o1",
        _without_seams,
        _larger_without,
    ),
]
