"""Rows with nearly all of their power in one weight, and inputs that are huge where it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from comfy_vq import codecs
from comfy_vq.codecs import encoder
from comfy_vq.codecs.scales import weighted

CODECS = ("additive", "trellis")
LOUD, COLUMN, WIDTH = 7, 200, 512


@pytest.fixture(scope="module")
def weight() -> Tensor:
    w = torch.randn(48, WIDTH, generator=torch.Generator().manual_seed(1)) / 8
    w[LOUD, COLUMN] = 6 * w[LOUD].norm()
    return w


@pytest.fixture(scope="module")
def moments() -> Tensor:
    """Of 2000 tokens, ten of which are huge in one channel."""
    generator = torch.Generator().manual_seed(2)
    mix = torch.randn(WIDTH, WIDTH, generator=generator) / math.sqrt(WIDTH)
    x = torch.randn(2000, WIDTH, generator=generator) @ mix
    x[:10, COLUMN] = 100.0
    return (x.T @ x / len(x))[None]


def coded(w: Tensor, codec: str, moments: Tensor | None) -> codecs.VQWeight:
    return codecs.encode(w, 3, codec, "fast", moments=moments)


def row_db(w: Tensor, found: codecs.VQWeight, moments: Tensor | None) -> Tensor:
    error = w - found.decode(torch.float32)
    signal, noise = ((m * weighted(m, moments)).sum(1) for m in (w, error))
    return 10 * (signal / noise).log10()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("calibrated", [False, True], ids=["plain", "under moments"])
def test_a_loud_row_is_coded_within_the_range_of_codes(
    weight, moments, codec, calibrated, monkeypatch
):
    known = moments if calibrated else None
    found = coded(weight, codec, known)
    monkeypatch.setattr(encoder, "_LOUD", math.inf)
    once = coded(weight, codec, known)
    for name, tensor in found.tensors.items():
        others = torch.arange(len(tensor)) != LOUD
        assert torch.equal(tensor[others], once.tensors[name][others])
    gain = row_db(weight, found, known)[LOUD] - row_db(weight, once, known)[LOUD]
    assert gain > (4 if calibrated else 1)


@pytest.mark.parametrize("codec", CODECS)
def test_under_moments_a_loud_row_is_still_itself(weight, moments, codec):
    assert row_db(weight, coded(weight, codec, moments), None)[LOUD] > 3


@pytest.mark.parametrize("codec", CODECS)
def test_rows_without_a_loud_window_are_searched_once(codec, monkeypatch):
    searched = []
    found = encoder.Coder._found

    def counted(self: encoder.Coder, slab: Tensor, *args) -> tuple[Tensor, Tensor, Tensor]:
        searched.append(len(slab))
        return found(self, slab, *args)

    monkeypatch.setattr(encoder.Coder, "_found", counted)
    w = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(3))
    w[:, :64] *= 1.5  # louder than the rest, but not by much
    coded(w, codec, None)
    assert sum(searched) == len(w)
