"""Fine-tuning: better than before, never worse, of the same size, and not harmed by being killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.evaluation.metrics import sqnr_db
from comfy_vq.finetune.rounds import fine_tune
from comfy_vq.finetune.training import Settings
from comfy_vq.model import VQModel

from . import toy

SETTINGS = Settings(iterations=30, rows=8, rate=3e-3, evaluations=6)
MOVING = replace(SETTINGS, code_rate=1e-2, turns=2)
"""Everything learns."""


@pytest.fixture(scope="module")
def dense() -> toy.Network:
    return toy.teacher()


@pytest.fixture(scope="module")
def model(dense) -> VQModel:
    return toy.coded(dense)


def unseen_sqnr_db(model: VQModel, dense: toy.Network) -> float:
    """Decoded as a reader of the file would, on questions that fine-tuning never asks."""
    network = toy.sites(model).network
    generator = torch.Generator().manual_seed(1234)
    x = torch.randn(64, 8, 4, 4, generator=generator)
    context = torch.randn(64, toy.WIDTH, generator=generator)
    return sqnr_db(dense(x, context=context), network(x, context=context))


class Killed(Exception):
    pass


def killed_after(iterations: int):
    left = iter(range(iterations, -1, -1))

    def on_progress(progress) -> None:
        if next(left) == 1:
            raise Killed

    return on_progress


def same(a: VQModel, b: VQModel) -> bool:
    pieces = {(name, piece) for name, weight in a.layers.items() for piece in weight.tensors}
    sets = a.codebook_sets()
    return (
        all(torch.equal(a.dense[key], b.dense[key]) for key in a.dense)
        and all(torch.equal(a.layers[n].tensors[p], b.layers[n].tensors[p]) for n, p in pieces)
        and sets.keys() == b.codebook_sets().keys()
        and all(torch.equal(s.codebooks, b.codebook_sets()[n].codebooks) for n, s in sets.items())
    )


def damaged(model: VQModel) -> VQModel:
    """With norms, biases and scales that are off by a tenth or so, and codes as they were."""
    generator = torch.Generator().manual_seed(7)

    def off(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor * (1 + 0.1 * torch.randn(tensor.shape, generator=generator))).half()

    layers = {
        name: replace(w, tensors={**w.tensors, "scales": off(w.tensors["scales"])})
        for name, w in model.layers.items()
    }
    return replace(model, layers=layers, dense={k: off(t) for k, t in model.dense.items()})


def test_scales_norms_and_biases_find_their_way_back_on_questions_never_asked(dense):
    fine = {name: ("additive", 5) for name in toy.LAYERS}
    worse = damaged(toy.coded(dense, fine))
    outcome = fine_tune(toy.Pupil(worse, dense), replace(SETTINGS, iterations=200))
    before, after = (unseen_sqnr_db(m, dense) for m in (worse, outcome.model))
    assert after > before + 1
    assert outcome.after_db > outcome.before_db + 1


def test_a_codebook_set_that_is_off_learns_and_tables_of_a_trellis_stay(model, dense):
    shared = model.layers["inner"].codebooks
    assert shared is not None
    generator = torch.Generator().manual_seed(7)
    off = shared.codebooks + 6 * torch.randn(shared.codebooks.shape, generator=generator)
    bent = replace(shared, codebooks=off.clamp(0, 127).to(torch.uint8))
    layers = {**model.layers, "inner": replace(model.layers["inner"], codebooks=bent)}
    worse = replace(model, layers=layers)

    how = replace(SETTINGS, iterations=200)
    tuned, kept = (
        fine_tune(toy.Pupil(worse, dense), replace(how, codebooks=codebooks)).model
        for codebooks in (True, False)
    )
    assert unseen_sqnr_db(tuned, dense) > unseen_sqnr_db(kept, dense) + 0.5
    assert kept.codebook_sets().keys() == worse.codebook_sets().keys()
    assert tuned.codebook_sets().keys() == {"tuned.gaussian-M2", "gaussian-K2-L10"}
    assert tuned.layers["convolution"].codebooks is model.layers["convolution"].codebooks


def test_codes_that_move_gain_where_nothing_else_is_left_to_learn(model, dense):
    stayed, moved = (
        fine_tune(toy.Pupil(model, dense), replace(how, iterations=200, codebooks=False))
        for how in (SETTINGS, MOVING)
    )
    for name in ("convolution", "inner"):
        before, after = (m.layers[name].tensors["codes"] for m in (model, moved.model))
        assert not torch.equal(before, after)
        assert torch.equal(before, stayed.model.layers[name].tensors["codes"])
    assert unseen_sqnr_db(moved.model, dense) > unseen_sqnr_db(stayed.model, dense) + 0.5


def test_the_size_stays_as_it_was_and_the_file_reads_back(model, dense, tmp_path: Path):
    tuned = fine_tune(toy.Pupil(model, dense), MOVING).model
    assert tuned.nbytes == model.nbytes and tuned.bits_per_weight == model.bits_per_weight
    assert {key: t.dtype for key, t in tuned.dense.items()} == {
        key: t.dtype for key, t in model.dense.items()
    }
    checkpoint.save(tmp_path / "tuned.safetensors", tuned)
    assert same(checkpoint.load(tmp_path / "tuned.safetensors"), tuned)


def test_what_it_started_from_is_not_changed(dense):
    model, copy = toy.coded(dense), toy.coded(dense)
    fine_tune(toy.Pupil(model, dense), MOVING)
    assert same(model, copy)


@pytest.mark.parametrize("rate", [1e6, 1e12])
def test_a_ruinous_rate_gives_back_what_it_started_from(model, dense, rate):
    outcome = fine_tune(toy.Pupil(model, dense), replace(MOVING, rate=rate, code_rate=rate))
    assert same(outcome.model, model)
    assert outcome.after_db == outcome.before_db


@pytest.mark.parametrize("iterations", [1, 21, 25])
@pytest.mark.parametrize("rate", [SETTINGS.rate, 1.0], ids=["", "too long"])
def test_killed_and_resumed_it_ends_as_if_it_had_not_been(model, dense, tmp_path, iterations, rate):
    settings = replace(MOVING, rate=rate)
    whole = fine_tune(toy.Pupil(model, dense), settings)
    if rate != SETTINGS.rate:
        assert min(p.sqnr_db for p in whole.points) < whole.before_db < whole.after_db
    state, how = tmp_path / "state.safetensors", {"about": "toy", "save_every": 0}
    with pytest.raises(Killed):
        fine_tune(
            toy.Pupil(model, dense),
            settings,
            state=state,
            on_progress=killed_after(iterations),
            **how,
        )
    resumed = fine_tune(toy.Pupil(model, dense), settings, state=state, **how)
    assert same(resumed.model, whole.model)
    assert [p.sqnr_db for p in resumed.points] == [p.sqnr_db for p in whole.points]


def test_the_state_of_something_else_is_refused(model, dense, tmp_path):
    state = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fine_tune(
            toy.Pupil(model, dense),
            SETTINGS,
            state=state,
            about="one",
            save_every=0,
            on_progress=killed_after(2),
        )
    with pytest.raises(VQError, match="files and prompts"):
        fine_tune(toy.Pupil(model, dense), SETTINGS, state=state, about="another")
    with pytest.raises(VQError, match=r"rate.*found 0\.003, expected 0\.5"):
        fine_tune(toy.Pupil(model, dense), replace(SETTINGS, rate=0.5), state=state, about="one")
    state.write_bytes(b"no tensors")
    with pytest.raises(VQError, match="remove the file"):
        fine_tune(toy.Pupil(model, dense), SETTINGS, state=state, about="one")


def test_it_ends_early_where_nothing_gets_better(model, dense):
    settings = replace(SETTINGS, iterations=1000, rate=1e3, evaluations=1000, patience=3)
    outcome = fine_tune(toy.Pupil(model, dense), settings)
    assert outcome.points[-1].iteration < 20


def test_it_ends_in_time(model, dense):
    outcome = fine_tune(
        toy.Pupil(model, dense), replace(SETTINGS, iterations=None, seconds=1.0, patience=10**6)
    )
    assert 0.5 < outcome.points[-1].seconds < 3


def test_one_trajectory_is_not_enough(model, dense):
    with pytest.raises(VQError, match="found 1 trajectory, expected at least 2"):
        fine_tune(toy.Pupil(model, dense, trajectories=1), SETTINGS)
