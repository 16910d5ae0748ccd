import math

import pytest
import torch

from comfy_vq.evaluation import cosine, psnr_db, relative_l2, sqnr_db, ssim


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


def test_cosine_knows_direction_and_not_length():
    reference = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert cosine(reference, 2 * reference) == pytest.approx(1)
    assert cosine(reference, -reference) == pytest.approx(-1)
    assert cosine(reference, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 0


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    pictures = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
    equal, little, much = (ssim(pictures, pictures + s * noise) for s in (0, 0.02, 0.2))
    assert equal.shape == (2,) and equal.allclose(torch.ones(2))
    assert (much < little).all() and (little < 1).all()


def test_ssim_of_flat_pictures_is_its_luminance_term():
    """(2 a b + C1) / (a^2 + b^2 + C1) with C1 = 0.01^2, where nothing varies."""
    dark, bright = torch.full((1, 12, 12, 3), 0.25), torch.full((1, 12, 12, 3), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim(dark, bright).item() == pytest.approx(expected, rel=1e-3)
