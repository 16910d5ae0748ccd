"""The tensors of Stable Diffusion's UNets by their construction rules: original keys and shapes."""

from __future__ import annotations

Shapes = dict[str, tuple[int, ...]]


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
) -> Shapes:
    """Keys (without prefix) and shapes; ``depths`` has the transformer depth of each level."""
    time = 4 * base
    found = {**_layer("time_embed.0", time, base), **_layer("time_embed.2", time, time)}
    if adm:
        found |= {**_layer("label_emb.0.0", time, adm), **_layer("label_emb.0.2", time, time)}
    found |= _layer("input_blocks.0.0", base, 4, 3, 3)
    skips, width, index = [base], base, 1
    for level, (factor, depth) in enumerate(zip(mult, depths, strict=True)):
        for _ in range(blocks):
            found |= _residual(f"input_blocks.{index}.0", width, factor * base, time)
            width = factor * base
            if depth:
                at = f"input_blocks.{index}.1"
                found |= _transformer(at, width, depth, context, conv_projections)
            skips.append(width)
            index += 1
        if level < len(mult) - 1:
            found |= _layer(f"input_blocks.{index}.0.op", width, width, 3, 3)
            skips.append(width)
            index += 1
    found |= _residual("middle_block.0", width, width, time)
    if middle_depth:
        found |= _transformer("middle_block.1", width, middle_depth, context, conv_projections)
        found |= _residual("middle_block.2", width, width, time)
    index = 0
    for level, (factor, depth) in reversed(list(enumerate(zip(mult, depths, strict=True)))):
        for block in range(blocks + 1):
            at = f"output_blocks.{index}"
            found |= _residual(f"{at}.0", width + skips.pop(), factor * base, time)
            width, part = factor * base, 1
            if depth:
                found |= _transformer(f"{at}.1", width, depth, context, conv_projections)
                part = 2
            if level and block == blocks:
                found |= _layer(f"{at}.{part}.conv", width, width, 3, 3)
            index += 1
    return {**found, **_norm("out.0", base), **_layer("out.2", 4, base, 3, 3)}


def sdxl() -> Shapes:
    return unet((1, 2, 4), (0, 2, 10), 2048, middle_depth=10, adm=2816)


def sd15() -> Shapes:
    return unet((1, 2, 4, 4), (1, 1, 1, 0), 768, middle_depth=1, conv_projections=True)


def demo(channels: int = 320, context: int = 768) -> Shapes:
    """The shipped model's: one level of one block with attention, a middle without."""
    return unet((1,), (1,), context, blocks=1, conv_projections=True, base=channels)


def _layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    found: Shapes = {f"{name}.weight": shape}
    return {**found, f"{name}.bias": shape[:1]} if bias else found


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _residual(at: str, inputs: int, outputs: int, time: int) -> Shapes:
    found = {
        **_norm(f"{at}.in_layers.0", inputs),
        **_layer(f"{at}.in_layers.2", outputs, inputs, 3, 3),
        **_layer(f"{at}.emb_layers.1", outputs, time),
        **_norm(f"{at}.out_layers.0", outputs),
        **_layer(f"{at}.out_layers.3", outputs, outputs, 3, 3),
    }
    if inputs != outputs:
        found |= _layer(f"{at}.skip_connection", outputs, inputs, 1, 1)
    return found


def _transformer(at: str, width: int, depth: int, context: int, conv: bool) -> Shapes:
    taps = (1, 1) if conv else ()
    found = {**_norm(f"{at}.norm", width), **_layer(f"{at}.proj_in", width, width, *taps)}
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        for name, inputs in (("attn1", width), ("attn2", context)):
            found |= {
                **_layer(f"{block}.{name}.to_q", width, width, bias=False),
                **_layer(f"{block}.{name}.to_k", width, inputs, bias=False),
                **_layer(f"{block}.{name}.to_v", width, inputs, bias=False),
                **_layer(f"{block}.{name}.to_out.0", width, width),
            }
        found |= {
            **_layer(f"{block}.ff.net.0.proj", 8 * width, width),
            **_layer(f"{block}.ff.net.2", width, 4 * width),
        }
        for norm in ("norm1", "norm2", "norm3"):
            found |= _norm(f"{block}.{norm}", width)
    return {**found, **_layer(f"{at}.proj_out", width, width, *taps)}
