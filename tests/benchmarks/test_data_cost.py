"""Counting what SDXL asks for, against what others have counted."""

from __future__ import annotations

from math import prod

import pytest

from benchmarks.data_cost import prediction
from benchmarks.unet_shapes import sdxl


@pytest.fixture(scope="module")
def found():
    return prediction(32)


def test_the_layers_are_those_of_the_checkpoint(found):
    """Which diffusers knows by other names."""
    wanted = sorted(shape for shape in sdxl().values() if len(shape) in (2, 4))
    counted = sorted(kind.weight for kind in found.layers.elements())
    assert counted == wanted and len(counted) == 794


def test_a_layer_is_counted_by_its_outputs(found):
    """But for attention, which multiplies activations with each other."""
    counted = 0
    for kind, layers in found.layers.items():
        rows = prod(kind.input) // kind.input[1 if len(kind.weight) == 4 else -1]
        counted += layers * 2 * rows // kind.stride**2 * prod(kind.weight)
    assert 0.9 * found.operations < counted < found.operations


def test_queries_keys_and_values_are_heard_once(found):
    inputs, layers = sum(found.inputs.values()), sum(found.layers.values())
    blocks = 70  # attention to itself, and to the prompt, which all blocks are given
    assert layers - inputs >= 2 * blocks + 2 * blocks - 1
