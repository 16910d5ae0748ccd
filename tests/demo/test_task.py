"""What the demo samples, and how its pictures are judged."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint, codecs
from comfy_vq.demo import scenes, task
from comfy_vq.model import VQModel

SUBJECTS = task.subjects(4)


def test_subjects_are_held_out_and_all_different():
    assert len(set(task.subjects(24))) == 24 and set(task.subjects(24)) <= set(scenes.held_out())
    assert task.subjects(1000) == list(scenes.held_out())


def test_drawn_scenes_are_aligned_and_others_are_not():
    chance = np.random.default_rng(0)
    drawn = torch.from_numpy(np.stack([scenes.draw(s, chance) for s in SUBJECTS])).float() / 255
    assert task.judge(drawn, SUBJECTS) == {"colour": 1, "shape": 1, "position": 1, "scene": 1}
    assert set(task.judge(torch.ones(4, 64, 64, 3), SUBJECTS).values()) == {0}
    assert task.judge(drawn.flip(0), SUBJECTS)["scene"] < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_size_is_what_the_files_say(tmp_path, dtype):
    dense = {"a.weight": torch.ones(64, 64, dtype=dtype), "a.bias": torch.ones(64, dtype=dtype)}
    save_file(dense, tmp_path / "dense.safetensors")
    size = task.size_of(tmp_path / "dense.safetensors")
    assert size.numel == 65 * 64 and size.bits_per_weight == 8 * dtype.itemsize
    model = VQModel(
        {"a": codecs.encode(dense["a.weight"], 3, effort="fast")}, {"a.bias": dense["a.bias"]}
    )
    checkpoint.save(tmp_path / "vq.safetensors", model)
    size = task.size_of(tmp_path / "vq.safetensors")
    assert size.numel == 65 * 64
    assert size.bits_per_weight == checkpoint.inspect(tmp_path / "vq.safetensors").bits_per_weight
