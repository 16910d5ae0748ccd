"""The checkpoints that benchmarks make have the keys and shapes of the host's own models."""

import comfy.model_detection
import pytest
import torch

from benchmarks import unet_shapes


@pytest.mark.parametrize(
    ("shapes", "name"), [(unet_shapes.sdxl(), "SDXL"), (unet_shapes.sd15(), "SD15")]
)
def test_shapes_are_those_of_the_host(shapes, name):
    prefix = "model.diffusion_model."
    tensors = {
        prefix + key: torch.empty(shape, device="meta", dtype=torch.float16)
        for key, shape in shapes.items()
    }
    config = comfy.model_detection.model_config_from_unet(tensors, prefix)
    assert type(config).__name__ == name
    model = config.get_model(tensors, prefix, device="meta")
    held = {key: tuple(t.shape) for key, t in model.diffusion_model.state_dict().items()}
    assert held == shapes
