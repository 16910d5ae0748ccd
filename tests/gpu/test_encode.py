"""Encoding on the card: as good as on the CPU, if not bit for bit, and decoded alike by both."""

import pytest
import torch

from comfy_vq import codecs
from comfy_vq.evaluation import sqnr_db


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
