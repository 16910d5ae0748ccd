"""What the demo model's training does to networks and latents."""

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from comfy_vq.demo.conditioning import embed
from comfy_vq.demo.scenes import draw, training
from comfy_vq.demo.with_diffusers import noise_schedule
from training.autoencoder import Autoencoder
from training.denoiser import build, learning_rate, sample
from training.export import read_autoencoder, read_unet, write_autoencoder, write_unet
from training.key_names import original
from training.latents import latents
from training.widen import widen


@torch.no_grad()
def test_a_widened_network_computes_the_same():
    torch.manual_seed(0)
    narrow, wide = build(32), build(96)
    widen(narrow, wide)
    noisy, context = torch.randn(2, 4, 8, 8), embed(["a red circle above a blue square", ""])
    time_steps = torch.tensor([900, 100])
    before = narrow(noisy, time_steps, context).sample
    after = wide(noisy, time_steps, context).sample
    assert (after - before).norm() / before.norm() < 1e-4
    # The noise that cancels keeps the weights as spread as they would be in a network this wide.
    name = "mid_block.resnets.0.conv1.weight"
    spread = wide.state_dict()[name].std() / narrow.state_dict()[name].std()
    assert spread == pytest.approx(3**-0.5, rel=0.05)


def test_latents_of_scenes_are_standardised():
    rng = np.random.RandomState(0)
    pictures = np.stack([draw(scene, rng) for scene in training()])
    found = latents(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    assert found.shape == (len(pictures), 4, 8, 8)
    assert found.mean((0, 2, 3)).abs().max() < 0.03
    assert (found.std((0, 2, 3)) - 1).abs().max() < 0.03


def test_the_learning_rate_rises_holds_and_falls():
    rates = [learning_rate(step, 1000, 2.0) for step in (0, 99, 500, 700, 850, 999)]
    assert rates == pytest.approx([0.02, 2.0, 2.0, 2.0, 1.0, 2 / 300])


def test_files_are_read_as_they_were_written(tmp_path):
    torch.manual_seed(0)
    model, autoencoder = build(), Autoencoder()
    assert len({original(name) for name in model.state_dict()}) == len(model.state_dict())
    write_unet(model, tmp_path)
    write_autoencoder(autoencoder, tmp_path)
    for written, read in (
        (model, read_unet(tmp_path)),
        (autoencoder, read_autoencoder(tmp_path)),
    ):
        for name, tensor in read.state_dict().items():
            assert torch.equal(tensor, written.state_dict()[name].half().float()), name


def test_sampling_is_seeded():
    torch.manual_seed(0)
    model = build(32).eval()
    captions = ["a red circle above a blue square"]
    one, again, other = (sample(model, captions, seed, steps=2) for seed in (0, 0, 1))
    assert one.shape == (1, 4, 8, 8) and torch.equal(one, again) and not torch.equal(one, other)
    assert float(noise_schedule().alphas_cumprod[-1]) == pytest.approx(0.00466, abs=1e-5)
