"""VQ weights and a VQ model of SDXL's shapes with random codes, which cost no encoding.

Speed and memory depend on shapes and widths alone; random codes also keep a network finite, since
shared codebooks stand for normal weights.
"""

from __future__ import annotations

import math
import zlib

import torch

from benchmarks.sdxl_checkpoint import PREFIX
from benchmarks.unet_shapes import sdxl
from comfy_vq import codecs
from comfy_vq.codecs import VQWeight
from comfy_vq.model import Source, VQModel
from comfy_vq.plan import Layer, make_plan


def random_weight(
    shape: tuple[int, ...],
    bits: int,
    codec: str = "additive",
    dtype: torch.dtype = torch.float16,
    seed: int = 0,
) -> VQWeight:
    """A weight coded as ``codec`` would at ``bits``, with random codes, on the CPU.

    Its entries have about the variance 1 / fan in.
    """
    generator = torch.Generator().manual_seed(seed)
    spec = codecs.spec_for(codec, bits, shape)
    made = codecs.get(codec).pieces(spec, shape)
    fan_in = math.prod(shape[1:])
    # int8 codes are uniform, in units of 128: their standard deviation is 1 / sqrt(3).
    unit = fan_in**-0.5 * (math.sqrt(3) if codec == "int8" else 1)
    limits = torch.iinfo(made["codes"].dtype)
    low = max(limits.min, -127)
    codes = torch.randint(
        low, limits.max + 1, made["codes"].shape, dtype=made["codes"].dtype, generator=generator
    )
    tensors = {"codes": codes, "scales": torch.full(made["scales"].shape, unit).half()}
    shared = None
    if codec != "int8":
        shared = codecs.shipped_set(bits) if codec == "additive" else codecs.shipped_table(bits, 12)
    return VQWeight(spec, shape, dtype, tensors, shared)


def random_sdxl(bits: float = 3.0) -> VQModel:
    """A model of SDXL's shapes; every layer has the codec and width that the plan gives it."""
    shapes = sdxl()
    layers, others = [], {}
    for key, shape in shapes.items():
        if key.endswith(".weight") and len(shape) in (2, 4):
            layers.append(Layer(key.removesuffix(".weight"), shape, 16))
        else:
            others[key] = shape
    numel = sum(math.prod(shape) for shape in others.values())
    plan = make_plan(layers, 16 * numel, numel, bits)
    coded = {}
    dense = {key: torch.full(s, float(key.endswith("weight"))).half() for key, s in others.items()}
    for layer in layers:
        choice, seed = plan.choices[layer.name], zlib.crc32(layer.name.encode())
        if choice.codec is None:
            generator = torch.Generator().manual_seed(seed)
            weight = torch.randn(layer.shape, generator=generator)
            dense[f"{layer.name}.weight"] = (weight * math.prod(layer.shape[1:]) ** -0.5).half()
        else:
            coded[layer.name] = random_weight(layer.shape, choice.bits, choice.codec, seed=seed)
    return VQModel(coded, dense, Source("sdxl-random-codes", prefix=PREFIX), plan.summary())
