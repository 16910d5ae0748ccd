"""What VQDM quantizes, in SDXL's own naming."""

import pytest

from benchmarks.unet_shapes import demo, sd15, sdxl
from comfy_vq.errors import VQError
from comfy_vq.protocol.selection import block_groups, selected


def shapes_of(keys: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key.removesuffix(".weight"): shape for key, shape in keys.items() if len(shape) > 1}


def test_sdxl_has_seven_groups_of_all_its_blocks():
    shapes = shapes_of(sdxl())
    groups = block_groups(shapes)
    names = ["down 0", "down 1", "down 2", "middle", "up 0", "up 1", "up 2"]
    assert [group.name for group in groups] == names
    quantized = {name for group in groups for name in group.layers}
    assert sum(len(group.layers) for group in groups) == len(quantized)
    kept = shapes.keys() - quantized
    assert all(
        name.startswith(("time_embed", "label_emb")) or name.endswith(("emb_layers.1",))
        for name in kept - {"input_blocks.0.0", "out.2"}
    )
    assert {"input_blocks.0.0", "out.2"} <= kept


def test_what_changes_the_size_belongs_to_the_level_that_it_ends():
    by_name = {group.name: group.layers for group in block_groups(shapes_of(sdxl()))}
    assert "input_blocks.3.0.op" in by_name["down 0"]
    assert "input_blocks.4.0.in_layers.2" in by_name["down 1"]
    assert "output_blocks.2.2.conv" in by_name["up 0"]
    assert "output_blocks.3.0.in_layers.2" in by_name["up 1"]


def test_smaller_unets():
    assert [g.name for g in block_groups(shapes_of(demo()))] == ["down 0", "middle", "up 0"]
    assert len(block_groups(shapes_of(sd15()))) == 9


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("input_blocks.4.1.transformer_blocks.0.ff.net.0.proj", (5120, 640), True),
        ("input_blocks.4.1.transformer_blocks.0.ff.net.2", (640, 2560), True),
        ("middle_block.1.transformer_blocks.0.attn2.to_out.0", (1280, 1280), True),
        ("input_blocks.4.0.skip_connection", (640, 320, 1, 1), True),
        ("input_blocks.4.0.emb_layers.1", (640, 1280), False),
        ("input_blocks.4.0.in_layers.2", (640, 324, 3, 3), False),  # 8 does not divide 324
        ("input_blocks.4.0.in_layers.2", (640, 8, 3, 3), False),
        ("input_blocks.4.0.in_layers.0", (320,), False),
        ("double_blocks.0.img_attn.proj", (3072, 3072), False),
    ],
)
def test_a_layer(name, shape, expected):
    assert selected(name, shape) is expected


def test_other_models_are_refused():
    with pytest.raises(VQError, match="expected a UNet of the Stable Diffusion family"):
        block_groups({"double_blocks.0.img_attn.proj": (3072, 3072)})
