import math

import pytest
import torch

from comfy_vq.evaluation import psnr_db, relative_l2, sqnr_db


def test_sqnr_of_known_noise():
    reference = torch.ones(100)
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20, abs=1e-3)
    assert sqnr_db(reference, reference) == math.inf


def test_relative_l2_is_sqnr_in_other_words():
    reference, candidate = torch.randn(50), torch.randn(50)
    expected = -20 * math.log10(relative_l2(reference, candidate))
    assert sqnr_db(reference, candidate) == pytest.approx(expected)


def test_psnr_uses_the_peak_or_the_range():
    reference = torch.tensor([-2.0, 2.0])
    assert psnr_db(reference, reference + 0.4) == pytest.approx(20, abs=1e-4)
    assert psnr_db(reference, reference + 0.1, peak=1.0) == pytest.approx(20, abs=1e-4)
