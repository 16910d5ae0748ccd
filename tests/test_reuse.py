"""The plan of a VQ file, taken for another model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.quantize import plan_for, quantize
from comfy_vq.reuse import saved_plan

SHAPES = {f"blocks.{i}.fc.weight": (128, 64 * (i + 2)) for i in range(6)}


def weights_of(folder, shapes=SHAPES, seed=0, name="dense"):
    generator = torch.Generator().manual_seed(seed)
    tensors = {key: torch.randn(shape, generator=generator).half() for key, shape in shapes.items()}
    path = folder / f"{name}-{seed}.safetensors"
    save_file(tensors, path)
    return checkpoint.open_dense(path)


def file_of(folder, bits=3.0, codec="additive", sensitivity_db=None):
    weights = weights_of(folder)
    how = {"codec": codec, "effort": "fast", "sensitivity_db": sensitivity_db}
    plan = plan_for(weights, bits, **how)
    path = folder / "planned.safetensors"
    checkpoint.save(path, quantize(weights, bits, plan=plan, effort="fast"))
    return path, plan


SENSITIVITIES = {key.removesuffix(".weight"): -20.0 - 3 * i for i, key in enumerate(SHAPES)}


@pytest.mark.parametrize("codec", ["additive", "trellis"])
def test_another_model_gets_the_same_widths(tmp_path, codec):
    path, plan = file_of(tmp_path, codec=codec)
    found = saved_plan(path).plan_for(weights_of(tmp_path, seed=1), 3.0, effort="fast")
    assert found.choices == plan.choices
    assert found.bits == pytest.approx(plan.bits)


def test_measured_sensitivities_serve_for_another_average(tmp_path):
    path, _ = file_of(tmp_path, sensitivity_db=SENSITIVITIES)
    weights = weights_of(tmp_path, seed=1)
    found = saved_plan(path).plan_for(weights, 4.0)
    assert found.choices == plan_for(weights, 4.0, sensitivity_db=SENSITIVITIES).choices
    assert abs(found.bits - 4.0) <= 0.02


def test_without_them_only_the_same_average_can_be_had(tmp_path):
    path, _ = file_of(tmp_path)
    with pytest.raises(VQError, match=r"field bits: found a plan of \S+ bits .* expected 4"):
        saved_plan(path).plan_for(weights_of(tmp_path, seed=1), 4.0)


@pytest.mark.parametrize("change", ["missing", "wider"])
def test_a_model_of_other_layers_is_refused(tmp_path, change):
    path, _ = file_of(tmp_path)
    shapes = dict(SHAPES)
    shapes["blocks.2.fc.weight"] = (128, 512)
    if change == "missing":
        shapes.pop("blocks.2.fc.weight")
    with pytest.raises(VQError, match=r"planned\.safetensors: layer blocks\.2\.fc"):
        saved_plan(path).plan_for(weights_of(tmp_path, shapes, name=change), 3.0)


def test_sensitivities_that_are_no_numbers_are_left_out(tmp_path):
    path, _ = file_of(tmp_path)
    model = checkpoint.load(path)
    plan = {**model.plan, "sensitivity_db": {"blocks.0.fc": "loud", "blocks.1.fc": -3}}
    checkpoint.save(tmp_path / "odd.safetensors", replace(model, plan=plan))
    assert saved_plan(tmp_path / "odd.safetensors").sensitivity_db == {"blocks.1.fc": -3.0}
