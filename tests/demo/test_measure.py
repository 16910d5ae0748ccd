"""What is measured, on a host that knows the answers."""

import pytest
import torch

from comfy_vq.demo import scenes
from comfy_vq.demo.measure import TIMESTEPS, alignment, make_probe, predictions

SUBJECTS = scenes.held_out()[:4]


class Pooling:
    """A host whose latents are pooled pictures and whose noise is what was added, to a degree."""

    name = "pooling"

    def encode(self, pictures):
        grey = pictures.mean(-1, keepdim=True).expand(-1, -1, -1, 4).movedim(-1, 1)
        return torch.nn.functional.avg_pool2d(grey, 8)

    def predict(self, model, latents, noise, timestep, context):
        return noise * model + timestep


def test_a_probe_is_the_same_each_time():
    one, other = make_probe(Pooling(), SUBJECTS), make_probe(Pooling(), SUBJECTS)
    assert one.latents.shape == one.noise.shape == (4, 4, 8, 8)
    assert torch.equal(one.latents, other.latents) and torch.equal(one.noise, other.noise)


def test_predictions_are_made_at_every_timestep():
    probe = make_probe(Pooling(), SUBJECTS)
    predicted = predictions(Pooling(), 0.5, probe)
    assert predicted.shape == (len(TIMESTEPS), 4, 4, 8, 8)
    assert torch.equal(predicted[3], probe.noise * 0.5 + TIMESTEPS[3])


def test_drawn_scenes_are_aligned_and_others_are_not():
    import numpy as np

    chance = np.random.default_rng(0)
    drawn = torch.from_numpy(np.stack([scenes.draw(s, chance) for s in SUBJECTS])).float() / 255
    assert alignment(drawn, SUBJECTS).scene == pytest.approx(1.0)
    assert alignment(torch.ones(4, 64, 64, 3), SUBJECTS).colour == 0.0
