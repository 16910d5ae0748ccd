"""What a prompt carries besides text: places, times, pictures; and models made for pictures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.gligen
import comfy.ldm.flux.redux
import comfy.sd
import comfy.utils
import torch
from torch import Tensor, nn

from host.features.feature import Feature
from host.features.files import folder_of, picture, random_weights, tiny_vae
from host.features.graph import Graph, call, one, other_prompt, sample


def _area(graph: Graph) -> Tensor:
    area = {"width": 64, "height": 64, "x": 64, "y": 0, "strength": 0.9}
    there = one("ConditioningSetArea", conditioning=other_prompt(graph), **area)
    both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
    return sample(_wide(graph).with_(positive=both))


def _area_percentage(graph: Graph) -> Tensor:
    area = {"width": 0.5, "height": 1.0, "x": 0.5, "y": 0.0}
    there = one("ConditioningSetAreaPercentage", conditioning=other_prompt(graph), **area)
    both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
    return sample(_wide(graph).with_(positive=both))


def _wide(graph: Graph) -> Graph:
    channels = graph.latent["samples"].shape[1]
    return graph.with_(latent={"samples": torch.zeros((1, channels, 8, 16))})


def _wide_without(graph: Graph) -> Tensor:
    return sample(_wide(graph))


def _half_mask(side: int = 64) -> Tensor:
    mask = torch.zeros((1, side, side))
    mask[..., : side // 2] = 1
    return mask


def _mask(area: str):
    def run(graph: Graph) -> Tensor:
        where = {"mask": _half_mask(), "set_cond_area": area}
        there = one("ConditioningSetMask", conditioning=other_prompt(graph), **where)
        both = one("ConditioningCombine", conditioning_1=graph.positive, conditioning_2=there)
        return sample(graph.with_(positive=both))

    return run


def _prompts(node: str, first: str, second: str, **inputs: Any):
    def run(graph: Graph) -> Tensor:
        prompts = {first: graph.positive, second: other_prompt(graph)}
        return sample(graph.with_(positive=one(node, **prompts, **inputs)))

    return run


def _timesteps(graph: Graph) -> Tensor:
    early = one("ConditioningSetTimestepRange", conditioning=graph.positive, start=0.0, end=0.5)
    late = one("ConditioningSetTimestepRange", conditioning=other_prompt(graph), start=0.5, end=1.0)
    both = one("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    return sample(graph.with_(positive=both))


def _inpaint(graph: Graph, channels: int = 4) -> Graph:
    positive, negative, latent = call(
        "InpaintModelConditioning",
        positive=graph.positive,
        negative=graph.negative,
        vae=tiny_vae(channels),
        pixels=picture(),
        mask=_half_mask(),
    )
    return graph.with_(positive=positive, negative=negative, latent=latent)


def _inpainted(channels: int):
    return lambda graph: sample(_inpaint(graph, channels))


def _edited(channels: int):
    def run(graph: Graph) -> Tensor:
        positive, negative, latent = call(
            "InstructPixToPixConditioning",
            positive=graph.positive,
            negative=graph.negative,
            vae=tiny_vae(channels),
            pixels=picture(),
        )
        return sample(graph.with_(positive=positive, negative=negative, latent=latent))

    return run


def _noise_mask(graph: Graph) -> Tensor:
    inputs = {"pixels": picture(), "vae": tiny_vae(), "mask": _half_mask(), "grow_mask_by": 6}
    return sample(graph.with_(latent=one("VAEEncodeForInpaint", **inputs)))


def _from_picture(graph: Graph) -> Graph:
    return graph.with_(latent=one("VAEEncode", pixels=picture(), vae=tiny_vae()), denoise=0.6)


def _gligen(graph: Graph) -> Tensor:
    """A box for a phrase. The text encoder is a stand-in; the rest is ComfyUI's."""

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position_net = comfy.gligen.PositionNet(768, 768)
            for block in ("input_blocks.1.1", "output_blocks.0.1", "output_blocks.1.1"):
                gate = comfy.gligen.GatedSelfAttentionDense(320, 768, 8, 40)
                name = f"{block}.transformer_blocks.0.fuser"
                self.add_module(name.replace(".", "/"), gate)

    weights = {k.replace("/", "."): v for k, v in random_weights(Weights()).items()}
    for key in weights:
        if ".alpha_" in key:
            weights[key] = torch.tensor(1.0)
    comfy.utils.save_torch_file(weights, str(folder_of("gligen") / "tiny.safetensors"))
    phrase = torch.randn((1, 768), generator=torch.Generator().manual_seed(8))
    encoder = SimpleNamespace(
        tokenize=lambda text: text, encode_from_tokens=lambda tokens, return_pooled: (None, phrase)
    )
    positive = one(
        "GLIGENTextBoxApply",
        conditioning_to=graph.positive,
        clip=encoder,
        gligen_textbox_model=one("GLIGENLoader", gligen_name="tiny.safetensors"),
        text="a box",
        width=32,
        height=32,
        x=16,
        y=16,
    )
    return sample(graph.with_(positive=positive))


def _reference(graph: Graph) -> Graph:
    shape = graph.latent["samples"].shape
    latent = {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(9))}
    return graph.with_(
        positive=one("ReferenceLatent", conditioning=graph.positive, latent=latent),
        negative=one("ReferenceLatent", conditioning=graph.negative, latent=latent),
    )


def _referenced(graph: Graph) -> Tensor:
    return sample(_reference(graph))


def _reference_cached(graph: Graph) -> Tensor:
    return _reference_alone(graph.with_(model=one("FluxKVCache", model=graph.model)))


def _reference_alone(graph: Graph) -> Tensor:
    """Without negative prompt, as distilled models are sampled."""
    return sample(_reference(graph).with_(cfg=1.0, steps=4))


def _redux(graph: Graph) -> Tensor:
    """A picture as further tokens; what CLIP vision says of it is random."""
    encoder = comfy.ldm.flux.redux.ReduxImageEncoder(redux_dim=32, txt_in_features=64)
    encoder.load_state_dict(random_weights(encoder))
    seen = torch.randn((1, 9, 32), generator=torch.Generator().manual_seed(10))
    style = {
        "style_model": comfy.sd.StyleModel(encoder),
        "clip_vision_output": SimpleNamespace(last_hidden_state=seen),
    }
    inputs = {"strength": 0.7, "strength_type": "attn_bias", **style}
    return sample(
        graph.with_(positive=one("StyleModelApply", conditioning=graph.positive, **inputs))
    )


def _guidance(graph: Graph) -> Tensor:
    positive = one("FluxGuidance", conditioning=graph.positive, guidance=8.0)
    return sample(graph.with_(positive=positive))


def _windows(node: str, **inputs: Any):
    def run(graph: Graph) -> Tensor:
        model = one(node, model=graph.model, **inputs)
        return sample(_many_frames(graph).with_(model=model))

    return run


def _many_frames(graph: Graph) -> Graph:
    channels, size = graph.latent["samples"].shape[1], graph.latent["samples"].shape[-2:]
    return graph.with_(latent={"samples": torch.zeros((1, channels, 9, *size))})


def _many_frames_without(graph: Graph) -> Tensor:
    return sample(_many_frames(graph))


_MANUAL = {"context_length": 4, "context_overlap": 2, "dim": 2}


def _unclip(graph: Graph) -> Tensor:
    """A picture in place of a text; what CLIP vision says of it is random."""
    seen = torch.randn((1, 768), generator=torch.Generator().manual_seed(16))
    output = SimpleNamespace(image_embeds=seen)
    positive = one("unCLIPConditioning", conditioning=graph.positive, clip_vision_output=output)
    return sample(graph.with_(positive=positive))


FEATURES = [
    Feature("Area of a prompt", ("ConditioningSetArea",), "sd15", _area, _wide_without),
    Feature(
        "Area of a prompt in percent",
        ("ConditioningSetAreaPercentage",),
        "sd15",
        _area_percentage,
        _wide_without,
    ),
    Feature("Mask of a prompt", ("ConditioningSetMask",), "sd15", _mask("default")),
    Feature(
        "Mask of a prompt, by its bounds", ("ConditioningSetMask",), "sd15", _mask("mask bounds")
    ),
    Feature("Prompts by time", ("ConditioningSetTimestepRange",), "sd15", _timesteps),
    *(
        Feature(f"Prompts joined: {node}", (node,), "sd15", _prompts(node, *names, **inputs))
        for node, names, inputs in (
            ("ConditioningCombine", ("conditioning_1", "conditioning_2"), {}),
            ("ConditioningConcat", ("conditioning_to", "conditioning_from"), {}),
            (
                "ConditioningAverage",
                ("conditioning_to", "conditioning_from"),
                {"conditioning_to_strength": 0.4},
            ),
        )
    ),
    Feature(
        "Inpainting model (9 channels)",
        ("InpaintModelConditioning",),
        "sd15-inpaint",
        _inpainted(4),
    ),
    Feature(
        "Editing model (InstructPix2Pix, 8 channels)",
        ("InstructPixToPixConditioning",),
        "sd15-instruct-pix2pix",
        _edited(4),
    ),
    Feature("Flux Fill (96 channels)", ("InpaintModelConditioning",), "flux-fill", _inpainted(16)),
    Feature("Inpainting by a noise mask", ("VAEEncodeForInpaint",), "sd15", _noise_mask),
    Feature(
        "Picture to picture",
        ("VAEEncode",),
        "sd15",
        lambda graph: sample(_from_picture(graph)),
    ),
    Feature("unCLIP", ("unCLIPConditioning",), "sd2-unclip-l", _unclip),
    Feature("GLIGEN", ("GLIGENLoader", "GLIGENTextBoxApply"), "sd15", _gligen),
    Feature("Reference pictures (Flux Kontext)", ("ReferenceLatent",), "flux", _referenced),
    Feature(
        "Reference pictures with their keys and values kept",
        ("FluxKVCache",),
        "flux2",
        _reference_cached,
        _reference_alone,
    ),
    Feature("Style model (Flux Redux)", ("StyleModelApply",), "flux", _redux),
    Feature("Distilled guidance", ("FluxGuidance",), "flux-dev", _guidance),
    *(
        Feature(
            f"Context windows: {node}",
            (node,),
            variant,
            _windows(node, **inputs),
            _many_frames_without,
        )
        for node, variant, inputs in (
            ("ContextWindowsManual", "wan", _MANUAL),
            ("WanContextWindowsManual", "wan", {"context_length": 13, "context_overlap": 5}),
            ("LTXVContextWindows", "ltxv", {"context_length": 25, "context_overlap": 8}),
        )
    ),
]
