"""Nodes that change what happens inside the network: attention, blocks, tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from host.features.feature import Feature, patched
from host.features.files import folder_of
from host.features.graph import Graph, one, sample


def _large(graph: Graph) -> Graph:
    """At 16x16 latents, where tiles, tokens and halves have room."""
    channels = graph.latent["samples"].shape[1]
    return graph.with_(latent={"samples": torch.zeros((1, channels, 16, 16))})


def _large_without(graph: Graph) -> Tensor:
    return sample(_large(graph))


def _hypertile(graph: Graph) -> Tensor:
    torch.manual_seed(0)  # the node draws tile sizes from a generator of its own, seeded by torch's
    model = one("HyperTile", model=graph.model, tile_size=32, swap_size=1)
    return sample(_large(graph).with_(model=model))


def _tome(graph: Graph) -> Tensor:
    torch.manual_seed(0)
    return sample(_large(graph).with_(model=one("TomePatchModel", model=graph.model, ratio=0.5)))


class _PictureTokens:
    """A picture prompt as IP-Adapter adds it: keys and values of its own, beside the text's."""

    def __init__(self, tokens: int = 4, width: int = 768) -> None:
        generator = torch.Generator().manual_seed(5)
        self.tokens = torch.randn((1, tokens, width), generator=generator)
        self.to_k = torch.randn((320, width), generator=generator) / width**0.5
        self.to_v = torch.randn((320, width), generator=generator) / width**0.5

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        out = self._attend(q, k, v, extra_options["n_heads"])
        tokens = self.tokens.to(q).expand(q.shape[0], -1, -1)
        keys, values = F.linear(tokens, self.to_k.to(q)), F.linear(tokens, self.to_v.to(q))
        return out + 0.8 * self._attend(q, keys, values, extra_options["n_heads"])

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)


def _ip_adapter(graph: Graph) -> Tensor:
    model = graph.model.clone()
    for block in (("input", 1), ("output", 0), ("output", 1)):
        model.set_model_attn2_replace(_PictureTokens(), *block)
    return sample(graph.with_(model=model))


def _attention_patches(graph: Graph) -> Tensor:
    model = graph.model.clone()
    model.set_model_attn1_patch(lambda q, k, v, extra_options: (q, 0.5 * k, v))
    model.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k, 1.5 * v))
    model.set_model_attn1_output_patch(lambda out, extra_options: 0.9 * out)
    model.set_model_attn2_output_patch(lambda out, extra_options: 1.1 * out)
    return sample(graph.with_(model=model))


def _hypernetwork(graph: Graph) -> Tensor:
    generator = torch.Generator().manual_seed(6)

    def branch() -> dict[str, Tensor]:
        widths = [(640, 320), (320, 640)]
        weights = [torch.randn(shape, generator=generator) / 30 for shape in widths]
        return {
            f"linear.{i}.{name}": value
            for i, weight in enumerate(weights)
            for name, value in (("weight", weight), ("bias", torch.zeros(weight.shape[0])))
        }

    torch.save({320: [branch(), branch()]}, folder_of("hypernetworks") / "tiny.pt")
    name = {"hypernetwork_name": "tiny.pt"}
    return sample(graph.with_(model=one("HypernetworkLoader", model=graph.model, **name)))


_DOWNSCALE = {"block_number": 1, "downscale_factor": 2.0, "end_percent": 1.0}

FEATURES = [
    Feature("FreeU", ("FreeU",), "sd15, two widths", patched("FreeU", b2=1.4, s2=0.5)),
    Feature("FreeU V2", ("FreeU_V2",), "sd15, two widths", patched("FreeU_V2", b2=1.4, s2=0.5)),
    Feature(
        "Perturbed-attention guidance",
        ("PerturbedAttentionGuidance",),
        "sd15 with a middle",
        patched("PerturbedAttentionGuidance"),
    ),
    Feature(
        "Self-attention guidance",
        ("SelfAttentionGuidance",),
        "sd15 with a middle",
        patched("SelfAttentionGuidance", scale=2.0),
    ),
    Feature("HyperTile", ("HyperTile",), "sd15", _hypertile, _large_without),
    Feature("Token merging (ToMe)", ("TomePatchModel",), "sd15", _tome, _large_without),
    Feature(
        "Deep shrink",
        ("PatchModelAddDownscale",),
        "sd15",
        patched("PatchModelAddDownscale", **_DOWNSCALE),
    ),
    Feature("IP-Adapter: attention replaced", (), "sd15", _ip_adapter),
    Feature("Attention patches on q, k, v and output", (), "sd15", _attention_patches),
    Feature("Hypernetwork", ("HypernetworkLoader",), "sd15", _hypernetwork),
    Feature("Normalized attention guidance", ("NAGuidance",), "flux", patched("NAGuidance")),
    Feature("Scaled rotary positions", ("ScaleROPE",), "flux", patched("ScaleROPE", scale_x=2.0)),
    *(
        Feature(
            f"Attention scaled by weight patches: {kind}",
            (f"UNet{kind}AttentionMultiply",),
            "sd15",
            patched(f"UNet{kind}AttentionMultiply", q=1.3, v=0.8, out=1.2),
        )
        for kind in ("Self", "Cross")
    ),
    Feature(
        "Attention scaled by weight patches: Temporal",
        ("UNetTemporalAttentionMultiply",),
        "sd15",
        patched("UNetTemporalAttentionMultiply", self_structural=1.3, cross_structural=0.8),
        note="structural part; the temporal one needs a video U-Net",
    ),
]
