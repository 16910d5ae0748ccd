"""The search in Triton's interpreter, run by ``test_triton.py``."""

import pytest
import torch

from comfy_vq import codecs, kernels
from comfy_vq.codecs import viterbi as search
from comfy_vq.evaluation import sqnr_db
from comfy_vq.kernels import constraints, triton_ready, triton_viterbi, viterbi

CPU = torch.device("cpu")


def case(bits, window, steps, rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(1 << window, generator=generator)
    return torch.randn(steps, rows, generator=generator), table, bits


def is_a_path(states, table, bits):
    """Whether each state follows from the one before."""
    branches = len(table) >> bits
    return bool((states[:-1] % branches == states[1:] >> bits).all())


def cost(states, weights, table):
    return (table[states.long()] - weights).square().sum(0)


def assert_equally_good(bits, window, given):
    """A path that ends where it has to, and costs what that of eager PyTorch costs."""
    weights, table, _ = case(bits, window, 24, 3, seed=bits)
    joint = torch.tensor([0, 5, (1 << window - bits) - 1])
    start, end = (joint if name in given else None for name in ("start", "end"))
    found = triton_viterbi.best_path(weights, table, bits, start, end)
    expected = viterbi.best_path(weights, table, bits, start, end)
    assert is_a_path(found, table, bits)
    if start is not None:
        assert torch.equal(found[0].long() >> bits, joint)
    if end is not None:
        assert torch.equal(found[-1].long() % (len(table) >> bits), joint)
    costs = [cost(states, weights, table) for states in (found, expected)]
    assert torch.allclose(*costs, rtol=1e-5)
    assert (found == expected).float().mean() > 0.6  # of three rows, one may have two best paths


@pytest.mark.parametrize("given", [(), ("start", "end")])
@pytest.mark.parametrize("window", [10, 12])
@pytest.mark.parametrize("bits", range(2, 6))
def test_paths_are_those_of_eager_pytorch(bits, window, given):
    assert_equally_good(bits, window, given)


@pytest.mark.parametrize("given", ["start", "end"])
def test_one_end_can_be_given(given):
    assert_equally_good(3, 10, (given,))


@pytest.mark.parametrize(("steps", "rows"), [(1, 1), (2, 3), (140, 1), (3, 33)])
def test_any_number_of_steps_and_rows(steps, rows):
    weights, table, bits = case(3, 10, steps, rows)
    found = triton_viterbi.best_path(weights, table, bits)
    expected = viterbi.best_path(weights, table, bits)
    assert found.shape == (steps, rows) and is_a_path(found, table, bits)
    assert torch.allclose(*(cost(s, weights, table) for s in (found, expected)), rtol=1e-5)


def least_cost(weights, table, bits):
    """Of any path, for one row, in float64."""
    table, turns = table.double(), 1 << bits
    costs = (table - float(weights[0])).square()
    for weight in weights[1:].flatten().tolist():
        best = costs.view(turns, -1).amin(0)
        costs = best.repeat_interleave(turns) + (table - weight).square()
    return float(costs.min())


def test_long_rows_keep_their_precision():
    """Costs that grew with the steps would lose the difference between close paths."""
    weights, table, bits = case(3, 10, 700, 1)
    found = triton_viterbi.best_path(weights, table, bits)
    assert float(cost(found, weights, table)) == pytest.approx(
        least_cost(weights, table, bits), rel=1e-5
    )


def test_encoding_searches_with_this_kernel(monkeypatch):
    assert kernels.explain("best_path", CPU) == "best_path on cpu: triton"
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    used = []
    run = triton_viterbi.best_path
    monkeypatch.setattr(
        triton_viterbi, "best_path", lambda *given: used.append(len(given[0])) or run(*given)
    )
    coded = codecs.encode(weight, 3, "trellis", effort="fast")
    trials = {16}
    assert [n for n in used if n not in trials] == [64, 64]  # around the joint, and the row itself
    assert 15 < sqnr_db(weight, coded.decode()) < 18.5
    monkeypatch.setattr(search.kernels, "best_path", viterbi.best_path)
    eagerly = codecs.encode(weight, 3, "trellis", effort="fast")
    assert (coded.tensors["codes"] == eagerly.tensors["codes"]).float().mean() > 0.9


def test_wrong_paths_are_found_by_the_trial(monkeypatch):
    monkeypatch.setattr(triton_ready, "_broken", {})
    monkeypatch.setattr(
        triton_viterbi,
        "best_path",
        lambda weights, *_: torch.zeros_like(weights, dtype=torch.int32),
    )
    case = constraints.Case(CPU, torch.float32, 3, window=12)
    refusals = [constraint.refusal(case) for constraint in triton_ready.SEARCH]
    assert any(refusal and "wrong" in refusal for refusal in refusals)
