"""Models made for pictures, and pictures in prompts."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.gligen
import comfy.ldm.flux.redux
import comfy.sd
import comfy.utils
import torch
from torch import Tensor, nn

from host.features.conditioning import half_mask
from host.features.feature import Feature, Run
from host.features.files import folder_of, picture, random_weights, tiny_vae
from host.features.graph import Graph, call, one, sample


def _inpaint(graph: Graph, channels: int = 4) -> Graph:
    positive, negative, latent = call(
        "InpaintModelConditioning",
        positive=graph.positive,
        negative=graph.negative,
        vae=tiny_vae(channels),
        pixels=picture(),
        mask=half_mask(),
    )
    return graph.with_(positive=positive, negative=negative, latent=latent)


def _inpainted(channels: int) -> Run:
    return lambda graph: sample(_inpaint(graph, channels))


def _edited(channels: int) -> Run:
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
    inputs = {"pixels": picture(), "vae": tiny_vae(), "mask": half_mask(), "grow_mask_by": 6}
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


def _unclip(graph: Graph) -> Tensor:
    """A picture in place of a text; what CLIP vision says of it is random."""
    seen = torch.randn((1, 768), generator=torch.Generator().manual_seed(16))
    output = SimpleNamespace(image_embeds=seen)
    positive = one("unCLIPConditioning", conditioning=graph.positive, clip_vision_output=output)
    return sample(graph.with_(positive=positive))


FEATURES = [
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
]
