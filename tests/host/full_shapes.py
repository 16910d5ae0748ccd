"""Families at their real size: detection with weights on meta, and every kind of layer by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import comfy.ops
import torch
from torch import Tensor, nn

from comfy_vq import codecs
from comfy_vq.hosts.comfy.model.layout import is_coded, pending, settled
from comfy_vq.hosts.comfy.model.loader import InMemory, load
from comfy_vq.hosts.comfy.model.ops import CodedWeight, VQOperations
from comfy_vq.hosts.comfy.model.source import held_weights
from comfy_vq.model import Source, VQModel
from comfy_vq.plan import Layer, make_plan
from host.families import ALL_FAMILIES, Family, beside_weights, random_weight
from host.family_checks import BITS, left_dense
from host.sampling import relative_l2

Geometry = tuple[str, tuple[int, ...], tuple, object, tuple, int, str]


@dataclass(frozen=True)
class Detected:
    """A model at its real size.

    Attributes:
        host_class: the host's class that it was loaded as.
        plan_family: whose sensitivities a plan would use.
        weights: how many it has.
        coded: layers and weights that are coded.
        dense: weights that are not, by the kind of module that holds them.
        bits: per weight, of a plan for ``family_checks.BITS``.
        shapes: the distinct layers among them.
    """

    host_class: str
    plan_family: str
    weights: int
    coded: tuple[int, int]
    dense: Mapping[str, int]
    bits: float
    shapes: tuple[Geometry, ...]


def full_size(name: str) -> Detected:
    """Load a family at its real size through the host; codes take no memory."""
    family = ALL_FAMILIES[name]
    assert family.full is not None
    bare = family.full()
    vq = _coded_on_meta(name, family, bare)
    model = load(InMemory(vq)).model
    layers = [m for m in model.modules() if isinstance(m, CodedWeight) and is_coded(m.weight)]
    assert len(layers) == len(vq.layers)
    planned = [Layer(name, tuple(w.shape), 16) for name, w in vq.layers.items()]
    others = sum(tensor.numel() for tensor in vq.dense.values())
    plan = make_plan(planned, 16 * others, others, BITS)
    return Detected(
        type(model).__name__,
        plan.family,
        vq.numel,
        (len(layers), sum(w.numel for w in vq.layers.values())),
        left_dense(held for held in held_weights(bare) if not held.codable),
        plan.bits,
        tuple(dict.fromkeys(map(_geometry, layers))),
    )


def _coded_on_meta(name: str, family: Family, model: nn.Module) -> VQModel:
    layers: dict[str, codecs.VQWeight] = {}
    dense: dict[str, Tensor] = {}
    for held in held_weights(model):
        key, shape = family.prefix + held.key, tuple(held.tensor.shape)
        if held.codable:
            codec, bits = ("additive", 3) if shape[1] % 8 == 0 else ("int8", 8)
            spec = codecs.spec_for(codec, bits, shape)
            pieces = {
                piece: torch.empty(made.shape, dtype=made.dtype, device="meta")
                for piece, made in codecs.get(codec).pieces(spec, shape).items()
            }
            shared = codecs.shipped_set(bits) if codec == "additive" else None
            weight = codecs.VQWeight(spec, shape, torch.float16, pieces, shared)
            layers[key.removesuffix(".weight")] = weight
        else:
            dense[key] = torch.zeros((), dtype=torch.float16).expand(shape)
    return VQModel(layers, dense, Source(name, metadata={}, root=beside_weights(family)))


def _geometry(layer: CodedWeight) -> Geometry:
    """What the computation of a layer depends on."""
    kind = next(name for name in _KINDS if isinstance(layer, getattr(VQOperations, name)))
    fields = ("stride", "padding", "dilation")
    geometry = tuple(getattr(layer, name, None) for name in fields)
    groups, mode = getattr(layer, "groups", 1), getattr(layer, "padding_mode", "zeros")
    return (kind, tuple(layer.weight.shape), *geometry, groups, mode)


_KINDS = ("Linear", "Conv1d", "Conv2d", "Conv3d")


def differences(shapes: Iterable[Geometry]) -> Iterator[float]:
    """Relative L2 of each layer with a random coded weight to the host's with the decoded one."""
    for seed, shape in enumerate(shapes):
        yield _difference(shape, seed)


def _difference(geometry: Geometry, seed: int) -> float:
    kind, shape, stride, padding, dilation, groups, mode = geometry
    codec, bits = ("additive", 1 + seed % 4) if shape[1] % 8 == 0 else ("int8", 8)
    weight = random_weight(codec, bits, shape, seed=seed)
    inputs = shape[1] * groups
    options = {"bias": False, "dtype": torch.float32}
    if kind != "Linear":
        options |= {"kernel_size": shape[2:], "stride": stride, "padding": padding}
        options |= {"dilation": dilation, "groups": groups, "padding_mode": mode}
    coded = getattr(VQOperations, kind)(inputs, shape[0], **options)
    coded.weight = nn.Parameter(settled(pending(weight), torch.float32), requires_grad=False)
    dense = getattr(comfy.ops.manual_cast, kind)(inputs, shape[0], device="meta", **options)
    dense.weight = nn.Parameter(weight.decode(torch.float32), requires_grad=False)
    size = [max(4, taps) for taps in shape[2:]]
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn((1, inputs, *size) if size else (2, inputs), generator=generator)
    with torch.inference_mode():
        return relative_l2(dense(input), coded(input))
