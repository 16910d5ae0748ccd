"""Families are told from keys and shapes, and their tables agree with what was published."""

from __future__ import annotations

import re

import pytest

from benchmarks.unet_shapes import unet
from comfy_vq.errors import VQError
from comfy_vq.plan import FAMILIES, Layer, detect_family
from comfy_vq.plan.families import unet_name
from comfy_vq.plan.sensitivity import _TABLES, sensitivities

from . import shapes

TRANSFORMERS = {
    "flux": ["img_in", "double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"],
    "flux2": ["img_in", "double_blocks.0.img_attn.qkv", "double_stream_modulation_img.lin"],
    "chroma": ["img_in", "distilled_guidance_layer.in_proj", "double_blocks.0.img_mlp.0"],
    "sd3": ["x_embedder.proj", "joint_blocks.0.x_block.attn.qkv", "final_layer.linear"],
    "wan": ["patch_embedding", "blocks.0.cross_attn.k", "blocks.0.ffn.0", "head.head"],
    "lumina2": ["layers.0.feed_forward.w1", "context_refiner.0.feed_forward.w1"],
    "omnigen2": ["x_embedder", "context_refiner.0.feed_forward.linear_1"],
    "qwen-image": ["transformer_blocks.0.img_mlp.net.2", "transformer_blocks.0.txt_mod.1"],
    "hunyuan-video": ["img_in.proj", "txt_in.individual_token_refiner.blocks.0.mlp.fc1"],
    "ltxv": ["patchify_proj", "transformer_blocks.0.attn1.to_q", "adaln_single.linear"],
    "pixart": ["t_block.1", "blocks.0.cross_attn.kv_linear", "final_layer.linear"],
    "auraflow": ["cond_seq_linear", "double_layers.0.attn.w1q", "final_linear"],
    "hunyuan-dit": ["mlp_t5.0", "blocks.0.attn1.Wqkv", "final_layer.linear"],
    "hidream": ["double_stream_blocks.0.block.attn1.to_q", "final_layer.linear"],
    "cosmos": ["x_embedder.proj.1", "blocks.0.adaln_modulation_cross_attn.1"],
    "mochi": ["t5_yproj", "blocks.0.attn.qkv_x"],
    "cogvideo": ["patch_embed.text_proj", "blocks.0.q"],
    "kandinsky5": ["visual_transformer_blocks.0.self_attention.to_key"],
    "hunyuan3d": ["latent_in", "double_blocks.0.img_attn.qkv", "single_blocks.0.linear1"],
    "stable-cascade": ["clip_txt_mapper", "down_blocks.0.1.channelwise.0"],
    "stable-audio": ["postprocess_conv", "transformer.layers.0.self_attn.to_qkv"],
    "ace-step": ["lyric_encoder.encoders.0.feed_forward.w_1", "genre_embedder"],
    "dit": ["img_in", "transformer_blocks.0.attn.to_q", "proj_out"],
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_transformers_are_told_by_the_names_of_their_layers(family: str) -> None:
    keys = {f"{name}.weight": (64, 64) for name in TRANSFORMERS[family]}
    assert detect_family(keys) == family
    assert family in FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_every_table_says_where_it_comes_from(family: str) -> None:
    """And, where nothing was measured on the very family, that nothing was."""
    table = _TABLES[family]
    measured = family in ("demo", "sdxl", "unet") or table["size_exponent"] == 0
    assert table["source"] and (measured or re.search("rule|unmeasured", table["source"]))


@pytest.mark.parametrize(
    ("layers", "family"),
    [
        (shapes.sdxl(), "sdxl"),
        (shapes.sd15(), "sd15"),
        (shapes.weights(unet((1, 2, 4, 4), (1, 1, 1, 0), 1024, middle_depth=1)), "sd2"),
        (
            shapes.weights(
                unet((1, 2, 4, 4), (0, 4, 4, 0), 1280, middle_depth=4, adm=2560, base=384)
            ),
            "sdxl-refiner",
        ),
        (shapes.demo(), "demo"),
        (shapes.weights(unet((1, 2), (1, 1), 768)), "unet"),
        (shapes.flux(), "flux"),
        ([Layer("encoder.0", (64, 64), 16)], "generic"),
    ],
)
def test_families(layers: list[Layer], family: str) -> None:
    assert detect_family({f"{layer.name}.weight": layer.shape for layer in layers}) == family


@pytest.mark.parametrize(
    ("diffusers", "original"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("down_blocks.0.resnets.1.conv1", "input_blocks.2.0.in_layers.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_k",
        ),
        ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("mid_block.attentions.0.proj_in", "middle_block.1.proj_in"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
        ("conv_out", "out.2"),
        ("double_blocks.0.img_attn.qkv", "double_blocks.0.img_attn.qkv"),
    ],
)
def test_diffusers_names(diffusers: str, original: str) -> None:
    assert unet_name(diffusers) == original


def test_detects_diffusers_naming() -> None:
    keys = {
        "conv_in.weight": (320, 4, 3, 3),
        "add_embedding.linear_1.weight": (1280, 2816),
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        "up_blocks.2.resnets.2.conv2.weight": (320, 320, 3, 3),
    }
    assert detect_family(keys) == "sdxl"


def test_sdxl_agrees_with_the_published_order() -> None:
    """conv_out and the last block's second convolution dominate; cross-attention hardly matters."""
    layers = shapes.sdxl()
    ranked = [
        layer.name
        for _, layer in sorted(
            zip(sensitivities(layers, "sdxl"), layers, strict=True), key=lambda pair: -pair[0]
        )
    ]
    assert ranked[:3] == ["out.2", "output_blocks.8.0.out_layers.3", "input_blocks.0.0"]
    assert all("attn2" in name for name in ranked[-60:])


def test_ends_of_a_transformer_matter_more_than_its_middle() -> None:
    def one(name: str) -> float:
        layers = [Layer(f"double_blocks.{i}.img_mlp.0", (64, 64), 16) for i in range(9)]
        return sensitivities([*layers, Layer(name, (64, 64), 16)], "dit")[-1]

    middle, first = one("double_blocks.4.img_mlp.2"), one("double_blocks.0.img_mlp.2")
    assert one("final_layer.linear") > one("time_in.in_layer") > first > middle
    assert one("double_blocks.8.img_mlp.2") == first
    assert one("double_blocks.4.img_mod.lin") > middle


@pytest.mark.parametrize("family", FAMILIES)
def test_every_table_is_usable(family: str) -> None:
    values = sensitivities(shapes.sdxl() + shapes.flux(64, 2, 2), family)
    assert (values > 0).all()


def test_an_unknown_family_lists_the_known() -> None:
    with pytest.raises(VQError, match="'nope'.*dit.*sdxl"):
        sensitivities(shapes.demo(), "nope")
