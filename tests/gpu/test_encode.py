"""Encoding on the card: as good as on the CPU, if not bit for bit, and decoded alike by both."""

import pytest
import torch

from comfy_vq import codecs, kernels
from comfy_vq.evaluation import sqnr_db
from comfy_vq.kernels import viterbi


@pytest.mark.parametrize("effort", ["fast", "balanced"])
@pytest.mark.parametrize("codec", codecs.CODECS)
def test_codes_found_on_the_card_are_as_good(device, codec, effort):
    weight = torch.randn(24, 640, generator=torch.Generator().manual_seed(0))
    here = codecs.encode(weight, 3, codec, effort)
    there = codecs.encode(weight.to(device), 3, codec, effort)
    assert {t.device.type for t in there.tensors.values()} == {device.type}
    assert torch.equal(there.decode().cpu(), there.to("cpu").decode())
    found, expected = sqnr_db(weight, there.decode().cpu()), sqnr_db(weight, here.decode())
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize("bits", range(2, 6))
def test_paths_are_as_near_as_those_of_eager_pytorch(device, bits, window):
    generator = torch.Generator().manual_seed(bits)
    table = torch.randn(1 << window, generator=generator)
    weights = torch.randn(200, 37, generator=generator)
    joint = torch.randint(len(table) >> bits, (37,), generator=generator)
    found = kernels.best_path(
        weights.to(device),
        table.to(device),
        bits,
        joint.to(device),
        joint.to(device),
    )
    found = found.cpu().long()
    assert torch.equal(found[0] >> bits, joint)
    assert torch.equal(found[:-1] % (len(table) >> bits), found[1:] >> bits)
    assert torch.equal(found[-1] % (len(table) >> bits), joint)
    expected = viterbi.best_path(weights, table, bits, joint, joint)
    here, there = ((table[s] - weights).square().sum(0) for s in (expected, found))
    assert torch.allclose(here, there, rtol=1e-4)
