"""Layer lists of real architectures, made by their construction rules."""

from __future__ import annotations

import random

from comfy_vq.plan import Layer

HALF = 16


def _layer(name: str, *shape: int) -> Layer:
    return Layer(name, shape, HALF)


def _residual(at: str, inputs: int, outputs: int, time: int) -> list[Layer]:
    found = [
        _layer(f"{at}.in_layers.2", outputs, inputs, 3, 3),
        _layer(f"{at}.emb_layers.1", outputs, time),
        _layer(f"{at}.out_layers.3", outputs, outputs, 3, 3),
    ]
    if inputs != outputs:
        found.append(_layer(f"{at}.skip_connection", outputs, inputs, 1, 1))
    return found


def _transformer(at: str, width: int, depth: int, context: int, conv: bool) -> list[Layer]:
    taps = (1, 1) if conv else ()
    found = [_layer(f"{at}.proj_in", width, width, *taps)]
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        for name, inputs in (("attn1", width), ("attn2", context)):
            found += [
                _layer(f"{block}.{name}.to_q", width, width),
                _layer(f"{block}.{name}.to_k", width, inputs),
                _layer(f"{block}.{name}.to_v", width, inputs),
                _layer(f"{block}.{name}.to_out.0", width, width),
            ]
        found += [
            _layer(f"{block}.ff.net.0.proj", 8 * width, width),
            _layer(f"{block}.ff.net.2", width, 4 * width),
        ]
    return [*found, _layer(f"{at}.proj_out", width, width, *taps)]


def unet(
    mult: tuple[int, ...],
    depths: tuple[int, ...],
    context: int,
    *,
    blocks: int = 2,
    middle_depth: int = 0,
    adm: int = 0,
    conv_projections: bool = False,
    base: int = 320,
) -> list[Layer]:
    """A Stable Diffusion UNet; ``depths`` has the transformer depth of each level."""
    time = 4 * base
    found = [_layer("time_embed.0", time, base), _layer("time_embed.2", time, time)]
    if adm:
        found += [_layer("label_emb.0.0", time, adm), _layer("label_emb.0.2", time, time)]
    found.append(_layer("input_blocks.0.0", base, 4, 3, 3))
    skips, width, index = [base], base, 1
    for level, (factor, depth) in enumerate(zip(mult, depths, strict=True)):
        for _ in range(blocks):
            found += _residual(f"input_blocks.{index}.0", width, factor * base, time)
            width = factor * base
            if depth:
                at = f"input_blocks.{index}.1"
                found += _transformer(at, width, depth, context, conv_projections)
            skips.append(width)
            index += 1
        if level < len(mult) - 1:
            found.append(_layer(f"input_blocks.{index}.0.op", width, width, 3, 3))
            skips.append(width)
            index += 1
    found += _residual("middle_block.0", width, width, time)
    if middle_depth:
        at = "middle_block.1"
        found += _transformer(at, width, middle_depth, context, conv_projections)
        found += _residual("middle_block.2", width, width, time)
    index = 0
    for level, (factor, depth) in reversed(list(enumerate(zip(mult, depths, strict=True)))):
        for block in range(blocks + 1):
            found += _residual(f"output_blocks.{index}.0", width + skips.pop(), factor * base, time)
            width, part = factor * base, 1
            if depth:
                at = f"output_blocks.{index}.1"
                found += _transformer(at, width, depth, context, conv_projections)
                part = 2
            if level and block == blocks:
                found.append(_layer(f"output_blocks.{index}.{part}.conv", width, width, 3, 3))
            index += 1
    return [*found, _layer("out.2", 4, base, 3, 3)]


def sdxl() -> list[Layer]:
    return unet((1, 2, 4), (0, 2, 10), 2048, middle_depth=10, adm=2816)


def sd15() -> list[Layer]:
    return unet((1, 2, 4, 4), (1, 1, 1, 0), 768, middle_depth=1, conv_projections=True)


def demo() -> list[Layer]:
    """The shipped model: one level, one block, attention, middle without."""
    return unet((1,), (1,), 768, blocks=1, conv_projections=True)


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
