"""Layer lists of real architectures, made by their construction rules."""

from __future__ import annotations

import random

from benchmarks import unet_shapes
from comfy_vq.plan import Layer

HALF = 16


def _layer(name: str, *shape: int) -> Layer:
    return Layer(name, shape, HALF)


def sdxl() -> list[Layer]:
    return weights(unet_shapes.sdxl())


def sd15() -> list[Layer]:
    return weights(unet_shapes.sd15())


def demo() -> list[Layer]:
    """The shipped model: one level, one block, attention, middle without."""
    return weights(unet_shapes.demo())


def weights(found: unet_shapes.Shapes) -> list[Layer]:
    """The weights among the tensors of a model that may be coded."""
    return [_layer(k.removesuffix(".weight"), *s) for k, s in found.items() if len(s) in (2, 4)]


def flux(hidden: int = 3072, double: int = 19, single: int = 38) -> list[Layer]:
    found = [
        _layer("img_in", hidden, 64),
        _layer("time_in.in_layer", hidden, 256),
        _layer("time_in.out_layer", hidden, hidden),
        _layer("vector_in.in_layer", hidden, 768),
        _layer("vector_in.out_layer", hidden, hidden),
        _layer("txt_in", hidden, 4096),
    ]
    for i in range(double):
        for side in ("img", "txt"):
            at = f"double_blocks.{i}.{side}"
            found += [
                _layer(f"{at}_mod.lin", 6 * hidden, hidden),
                _layer(f"{at}_attn.qkv", 3 * hidden, hidden),
                _layer(f"{at}_attn.proj", hidden, hidden),
                _layer(f"{at}_mlp.0", 4 * hidden, hidden),
                _layer(f"{at}_mlp.2", hidden, 4 * hidden),
            ]
    for i in range(single):
        at = f"single_blocks.{i}"
        found += [
            _layer(f"{at}.linear1", 7 * hidden, hidden),
            _layer(f"{at}.linear2", hidden, 5 * hidden),
            _layer(f"{at}.modulation.lin", 3 * hidden, hidden),
        ]
    return [
        *found,
        _layer("final_layer.linear", 64, hidden),
        _layer("final_layer.adaLN_modulation.1", 2 * hidden, hidden),
    ]


def random_layers(seed: int) -> list[Layer]:
    """Any mix of shapes, some of which additive cannot take."""
    rng = random.Random(seed)
    found = []
    for i in range(rng.randint(20, 60)):
        rows, columns = rng.choice([64, 96, 320, 640]), rng.choice([64, 100, 128, 320, 768])
        taps = rng.choice([(), (), (1, 1), (3, 3)])
        found.append(Layer(f"part.{i}.weights", (rows, columns, *taps), rng.choice([16, 16, 32])))
    return found
