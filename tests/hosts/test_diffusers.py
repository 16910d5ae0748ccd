"""The diffusers adapter computes what a dense network of the decoded weights does."""

from __future__ import annotations

import pytest
import torch

import sd_model

pytest.importorskip("diffusers")

from comfy_vq import codecs
from comfy_vq.errors import VQError
from comfy_vq.hosts.diffusers import CodedConv2d, CodedLayer, CodedLinear, load_unet
from comfy_vq.hosts.unet_config import unet_config
from comfy_vq.model import Source, VQModel

CHANNELS, CONTEXT = 32, 16


@pytest.fixture(scope="module")
def dense():
    return sd_model.state_dict(CHANNELS, CONTEXT)


@pytest.fixture(scope="module")
def coded(dense) -> VQModel:
    """Every matrix and convolution that can be coded, additive and int8 in turn."""
    layers, rest = {}, dict(dense)
    for key in [k for k, t in dense.items() if t.ndim in (2, 4) and t.shape[1] % 8 == 0]:
        codec, bits = (("additive", 3), ("int8", 8))[len(layers) % 2]
        weight = rest.pop(key)
        layers[key.removesuffix(".weight")] = codecs.encode(weight, bits, codec, "fast")
    return VQModel(layers=layers, dense=rest, source=Source(name="random"), plan={})


def predict(unet, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator, dtype=dtype)
    context = torch.randn(2, 5, CONTEXT, generator=generator, dtype=dtype)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 700]), context).sample


def test_coded_equals_its_decoded_weights(coded):
    expected = predict(load_unet(coded.decode(torch.float32)))
    torch.testing.assert_close(predict(load_unet(coded)), expected, rtol=1e-4, atol=1e-5)


def test_no_dense_copy_of_a_coded_weight(coded):
    unet = load_unet(coded)
    layers = [m for m in unet.modules() if isinstance(m, CodedLayer)]
    assert len(layers) == len(coded.layers)
    assert {type(m) for m in layers} == {CodedLinear, CodedConv2d}
    numel = sum(p.numel() for p in unet.parameters())
    assert numel == sum(t.numel() for t in coded.dense.values())


def test_casting_the_network_leaves_the_codes_alone(coded):
    unet = load_unet(coded).to(torch.bfloat16)
    layer = unet.get_submodule("mid_block.resnets.0.conv1")
    original = coded.layers["middle_block.0.in_layers.2"]
    for name, piece in original.tensors.items():
        assert torch.equal(layer.get_buffer(name), piece)
    assert predict(unet, torch.bfloat16).isfinite().all()


def test_dense_tensors_are_not_copied(dense):
    unet = load_unet(dense)
    assert unet.conv_in.weight.data_ptr() == dense["input_blocks.0.0.weight"].data_ptr()


def test_shapes_of_the_sd15_network():
    """What diffusers publishes as the configuration of Stable Diffusion 1.5."""
    found = {"input_blocks.0.0.weight": (320, 4, 3, 3), "out.2.weight": (4, 320, 3, 3)}
    number = 1
    for level, channels in enumerate((320, 640, 1280, 1280)):
        for _ in range(2):
            found[f"input_blocks.{number}.0.in_layers.2.weight"] = (channels, 8, 3, 3)
            if level < 3:
                block = f"input_blocks.{number}.1"
                found[f"{block}.proj_in.weight"] = (channels, channels, 1, 1)
                for attention, width in (("attn1.to_q", channels), ("attn2.to_k", 768)):
                    name = f"{block}.transformer_blocks.0.{attention}.weight"
                    found[name] = (channels, width)
            number += 1
        if level < 3:
            found[f"input_blocks.{number}.0.op.weight"] = (channels, channels, 3, 3)
            number += 1
    found["middle_block.0.in_layers.2.weight"] = (1280, 1280, 3, 3)
    found["middle_block.1.transformer_blocks.0.attn1.to_q.weight"] = (1280, 1280)
    config = unet_config(found)
    assert config["block_out_channels"] == [320, 640, 1280, 1280]
    assert config["down_block_types"] == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert config["up_block_types"] == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert config["mid_block_type"] == "UNetMidBlock2DCrossAttn"
    assert (config["layers_per_block"], config["cross_attention_dim"]) == (2, 768)
    assert config["attention_head_dim"] == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("input_blocks.0.0.weight"), "input_blocks.0.0.weight"),
        (lambda m: m.pop("middle_block.0.emb_layers.1.bias"), "time_emb_proj.bias"),
        (lambda m: m.update({"out.0.weight": torch.ones(3)}), r"out.0.weight has shape \[3\]"),
    ],
)
def test_other_models_are_refused(dense, change, message):
    damaged = dict(dense)
    change(damaged)
    with pytest.raises(VQError, match=message):
        load_unet(damaged)
