"""The tiny autoencoder from a file in TAESD's layout."""

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from diffusers import AutoencoderTiny

from comfy_vq.demo.autoencoder import TinyAutoencoder
from comfy_vq.errors import VQError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny().eval()


@pytest.fixture
def path(network, tmp_path):
    """The network's weights as TAESD numbers them: its decoder begins with a clamp."""
    tensors = {"vae_scale": torch.tensor(0.5), "vae_shift": torch.tensor(0.25)}
    for name, tensor in network.state_dict().items():
        part, _, number, leaf = name.split(".", 3)
        tensors[f"taesd_{part}.{int(number) + (part == 'decoder')}.{leaf}"] = tensor
    save_file(tensors, tmp_path / "autoencoder.safetensors")
    return tmp_path / "autoencoder.safetensors"


def test_scale_and_shift_lead_from_the_latents_that_the_network_sees(network, path):
    latents = torch.randn(2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    pictures = TinyAutoencoder(path, CPU).decode(latents)
    assert pictures.shape == (2, 16, 16, 3)
    with torch.no_grad():
        own = network.decode((latents / 0.18215 - 0.25) * 0.5).sample
    # ComfyUI's TAESD takes latents over SD1.5's factor as own / scale + shift.
    torch.testing.assert_close(pictures, (own.movedim(1, -1) / 2 + 0.5).clamp(0, 1))


def test_another_layout_is_refused(path):
    tensors = load_file(path)
    tensors["taesd_decoder.30.weight"] = torch.ones(1)
    save_file(tensors, path)
    with pytest.raises(VQError, match="decoder.layers.29.weight.*has no place"):
        TinyAutoencoder(path, CPU)
