"""Coding a layer under the errors of its output."""

from dataclasses import replace

import pytest
import torch

from comfy_vq.codecs.weight import to_matrix
from comfy_vq.errors import VQError
from comfy_vq.protocol.encode import Encoding, encode
from comfy_vq.protocol.sweep import _TOGETHER, sweep
from comfy_vq.protocol.weight import summed

HOW = Encoding(books=2, kmeans_steps=5, adam_steps=10, rounds=3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moments(columns: int, rank: int = 24) -> torch.Tensor:
    """Of inputs that mostly lie in a few directions."""
    inputs = random(400, rank, seed=1) @ random(rank, columns, seed=2) + 0.1 * random(400, columns)
    return inputs.T @ inputs / len(inputs)


def output_error(weight: torch.Tensor, found: torch.Tensor, inputs: torch.Tensor) -> float:
    error = to_matrix(weight - found)
    whole = to_matrix(weight)
    return float((error @ inputs * error).sum() / (whole @ inputs * whole).sum())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def plain_sweep(weight, inputs, codes, books, scales, beam):
    """The same search without any short cut: every candidate's whole rows, one row at a time."""
    order = generator()
    groups = torch.randperm(codes.shape[1], generator=order)
    shuffled = [torch.randperm(len(books), generator=order).tolist() for _ in groups]
    found = []
    for row in range(len(weight)):
        beams = [codes[row : row + 1]]
        for group, visited in zip(groups.tolist(), shuffled, strict=True):
            for book in visited:
                candidates = torch.cat([one.expand(256, -1, -1).clone() for one in beams])
                candidates[:, group, book] = torch.arange(256, dtype=torch.uint8).repeat(len(beams))
                scale = scales[row].expand(len(candidates))
                error = weight[row] - summed(candidates, books, scale)
                costs = (error @ inputs * error).sum(1)
                beams = [candidates[i : i + 1] for i in costs.argsort()[:beam].tolist()]
        found.append(beams[0])
    return torch.cat(found)


def test_a_sweep_finds_what_looking_at_whole_rows_finds():
    columns = 8 * (_TOGETHER + 3)  # some groups in the first part, some in the second
    weight, inputs = random(4, columns), moments(columns)
    books, scales = 0.5 * random(2, 256, 8, seed=3), torch.rand(4) + 0.5
    codes = torch.randint(256, (4, columns // 8, 2), generator=generator()).to(torch.uint8)
    found = sweep(weight, inputs, codes, books, scales, 4, generator())
    expected = plain_sweep(weight, inputs, codes, books, scales, 4)
    assert torch.equal(found, expected)


def test_rows_searched_in_several_parts_are_the_same(monkeypatch):
    weight, inputs = random(6, 64), moments(64)
    books, scales = 0.5 * random(2, 256, 8, seed=3), torch.ones(6)
    codes = torch.zeros(6, 8, 2, dtype=torch.uint8)
    whole = sweep(weight, inputs, codes, books, scales, 4, generator())
    monkeypatch.setattr("comfy_vq.protocol.sweep._BEAM_BYTES", 4 * 4 * 64 * 2)
    assert torch.equal(sweep(weight, inputs, codes, books, scales, 4, generator()), whole)


@pytest.mark.parametrize("shape", [(48, 128), (32, 16, 3, 3)])
def test_each_round_lowers_the_error_of_the_output(shape):
    weight = random(*shape) / 10
    inputs = moments(weight[0].numel())
    errors = []
    coded = encode(weight, inputs, HOW, generator(), lambda number, error: errors.append(error))
    assert errors == sorted(errors, reverse=True) and coded.rounds == len(errors) == 3
    assert coded.weight.dense().shape == weight.shape
    assert output_error(weight, coded.weight.dense(), inputs) == pytest.approx(coded.error, 1e-3)
    plain = encode(weight, inputs, replace(HOW, rounds=0), generator())
    assert plain.rounds == 0 and coded.error < 0.2 * plain.error


def test_it_ends_once_a_round_gains_too_little():
    weight, inputs = random(48, 128), moments(128)
    often = encode(weight, inputs, replace(HOW, rounds=50, tolerance=0.5), generator())
    assert 1 <= often.rounds < 10


def test_all_that_is_stored_is_counted_and_in_half_precision():
    weight = encode(random(48, 128), moments(128), HOW, generator()).weight
    assert weight.codes.shape == (48, 16, 2) and weight.codes.dtype == torch.uint8
    assert weight.bits == 8 * 48 * 16 * 2 + 16 * (2 * 256 * 8 + 48)
    for tensor in (weight.codebooks, weight.scales):
        assert torch.equal(tensor, tensor.half().float())


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(VQError, match="at least 256 groups"):
        encode(random(16, 64), moments(64), HOW, generator())
    with pytest.raises(VQError, match="inputs that are all zero"):
        encode(random(48, 128), torch.zeros(128, 128), HOW, generator())
