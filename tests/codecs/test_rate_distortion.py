"""What effort ``best`` has to reach on a large Gaussian weight, everything counted."""

import pytest
import torch

from comfy_vq import codecs
from comfy_vq.evaluation import sqnr_db


@pytest.mark.slow
@pytest.mark.parametrize(("books", "least_db"), [(2, 10.2), (3, 15.7), (4, 20.8)])
def test_best_effort_on_a_large_gaussian_weight(books, least_db):
    weight = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(99))
    coded = codecs.encode(weight, books, effort="best")
    assert sqnr_db(weight, coded.decode()) >= least_db
    assert coded.bits_per_weight < books + 0.03
