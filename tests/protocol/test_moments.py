"""X^T X of linear layers and of the windows of convolutions."""

import pytest
import torch
from torch import nn

from comfy_vq.codecs.weight import to_matrix
from comfy_vq.errors import VQError
from comfy_vq.protocol.moments import Collector, sums_bytes, windows

CONVOLUTIONS = {
    "plain": nn.Conv2d(8, 16, 3, padding=1),
    "stride": nn.Conv2d(8, 16, 3, padding=1, stride=2),
    "pixel": nn.Conv2d(8, 16, 1),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_multiplies_its_rows_with_the_windows(name):
    layer, x = CONVOLUTIONS[name], torch.randn(2, 8, 6, 6)
    outputs = windows(layer, x) @ to_matrix(layer.weight).T + layer.bias
    torch.testing.assert_close(outputs, layer(x).movedim(1, -1).flatten(0, 2))


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_sums_are_of_all_calls_in_memory_or_on_disk(limit):
    layer = nn.Linear(16, 4)
    inputs = [torch.randn(3, 700, 16) for _ in range(3)]
    collector = Collector({"layer": layer}, {"layer": (4, 16)}, limit=limit)
    with collector.listening():
        for x in inputs:
            layer(x)
    rows = torch.cat([x.flatten(0, 1) for x in inputs]).double()
    torch.testing.assert_close(collector.mean("layer"), (rows.T @ rows / len(rows)).float())
    assert not layer._forward_pre_hooks


def test_queries_keys_and_values_share_their_sums():
    names = [f"{a}.{b}" for a in ("attn1", "attn2") for b in ("to_q", "to_k", "to_v")]
    layers = {name: nn.Linear(16 if name[4] == "1" or name[-1] == "q" else 8, 4) for name in names}
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    assert sums_bytes(shapes) == 8 * (16 * 16 + 16 * 16 + 8 * 8)
    collector = Collector(layers, shapes)
    hidden, text = torch.randn(5, 16), torch.randn(5, 8)
    with collector.listening():
        for layer in layers.values():
            layer(hidden if layer.in_features == 16 else text)
    assert collector.mean("attn1.to_v").equal(collector.mean("attn1.to_q"))
    torch.testing.assert_close(collector.mean("attn2.to_v"), text.T @ text / 5)


def test_a_layer_that_was_not_used_or_met_nan_is_named():
    layer = nn.Linear(8, 4)
    collector = Collector({"unused": layer}, {"unused": (4, 8)})
    with pytest.raises(VQError, match="layer unused: it was never used"):
        collector.mean("unused")
    with collector.listening():
        layer(torch.full((1, 8), torch.nan))
    with pytest.raises(VQError, match="layer unused: found NaN or Inf"):
        collector.mean("unused")
