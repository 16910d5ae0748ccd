"""Test-only nodes, put into the test server's custom_nodes beside the extension."""

from __future__ import annotations

import hashlib
import json
import os
from types import SimpleNamespace

import comfy.sd1_clip
import torch
from comfy_api.latest import ComfyExtension, io

ENCODERS = {
    "sd1_clip_config.json": {"num_hidden_layers": 2, "intermediate_size": 768},
    "t5_config_xxl.json": {
        "d_model": 128,
        "d_kv": 32,
        "num_heads": 4,
        "d_ff": 256,
        "num_layers": 2,
    },
}
"""Sizes of text encoders in this server, where they differ from what the host's configurations say."""


def tiny_config(file):
    return {**json.load(file), **ENCODERS.get(os.path.basename(file.name), {})}


class TestConditioning(io.ComfyNode):
    """Random conditioning that depends on the text alone: a real text encoder is far from tiny."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestConditioning",
            display_name="Test Conditioning",
            category="testing",
            inputs=[
                io.String.Input("text", default=""),
                io.Int.Input("width", default=768, min=1, max=16384),
                io.Int.Input("tokens", default=12, min=1, max=4096),
                io.Int.Input("pooled_width", default=0, min=0, max=16384),
                io.Int.Input("nonce", default=0, min=0, optional=True, tooltip="Is not used."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text, width, tokens, pooled_width, nonce=0) -> io.NodeOutput:
        return io.NodeOutput(conditioning(text, width, tokens, pooled_width))


def conditioning(text: str, width: int = 768, tokens: int = 12, pooled_width: int = 0) -> list:
    """ComfyUI's CONDITIONING: float32 [1, tokens, width] and, where asked for, a pooled [1, width]."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    generator = torch.Generator().manual_seed(seed)
    details = {}
    if pooled_width:
        details["pooled_output"] = torch.randn(1, pooled_width, generator=generator)
    return [[torch.randn(1, tokens, width, generator=generator), details]]


class TestingNodes(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestConditioning]


async def comfy_entrypoint() -> TestingNodes:
    comfy.sd1_clip.json = SimpleNamespace(load=tiny_config)  # in a server alone
    return TestingNodes()
