"""The whole protocol on a small network."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.unet_shapes import demo, sdxl
from comfy_vq.codecs.weight import matrix_shape
from comfy_vq.errors import VQError
from comfy_vq.protocol import run as protocol
from comfy_vq.protocol.encode import Encoding
from comfy_vq.protocol.ledger import Ledger
from comfy_vq.protocol.published import SDXL
from comfy_vq.protocol.run import Result, Schedule, needs, run
from comfy_vq.protocol.selection import block_groups
from comfy_vq.protocol.tuning import Tuning
from comfy_vq.protocol.weight import SummedWeight
from protocol.toy import GROUPS, LAYERS, Host

CODED = sorted(LAYERS.values())[1:]
HOW = Schedule(
    Encoding(books=1, kmeans_steps=5, adam_steps=10, beam=4, rounds=2),
    Tuning(count=6, epochs=2, batch=2, rate=3e-4),
    count=4,
)


def whole(folder, host: Host | None = None, how: Schedule = HOW) -> tuple[Result, list[str]]:
    lines: list[str] = []
    result = run(host or Host(), how, Ledger(folder, {"a": "1"}), "VQDM-1", lines.append)
    return result, lines


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> tuple[Host, Result]:
    host = Host()
    return host, whole(tmp_path_factory.mktemp("run"), host)[0]


def test_each_group_is_sampled_anew_with_the_earlier_ones_quantized(result):
    host, _ = result
    seen = [frozenset(), frozenset({CODED[0]}), frozenset(CODED[:2])]
    assert host.sampled == [(n, 4, exchanged) for n, exchanged in enumerate(seen)]


def test_each_epoch_learns_from_prompts_of_its_own(result):
    assert result[0].taught_first == [0, 6]


def test_fine_tuning_changes_all_but_the_codes_and_helps(tmp_path, result):
    host, tuned = result
    plain, _ = whole(tmp_path, how=Schedule(HOW.encoding, Tuning(epochs=0), HOW.count))
    assert plain.dense == {} and tuned.weights.keys() == plain.weights.keys() == set(CODED)
    expected = {f"{name}.bias" for name in LAYERS.values()} | {"input_blocks.0.0.weight"}
    assert tuned.dense.keys() == expected
    assert not torch.equal(
        tuned.dense["input_blocks.0.0.weight"], host.read("input_blocks.0.0").half()
    )
    for name, weight in tuned.weights.items():
        before = plain.weights[name]
        assert torch.equal(weight.codes, before.codes)
        assert not torch.equal(weight.codebooks, before.codebooks)
        assert not torch.equal(weight.scales, before.scales)
        assert torch.equal(weight.codebooks, weight.codebooks.half().float())
    errors = [
        host.error(host.made_of({n: w.dense() for n, w in one.weights.items()}, one.dense))
        for one in (plain, tuned)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_all_that_is_stored_is_counted(result):
    host, found = result
    numel = sum(parameter.numel() for parameter in host.teacher.parameters())
    coded = sum(math.prod(host.shapes[name]) for name in CODED)
    rows = sum(host.shapes[name][0] for name in CODED)
    bits = coded + 16 * (len(CODED) * 256 * 8 + rows) + 16 * (numel - coded)
    size = found.size(numel)
    assert size.numel == numel and size.nbytes == math.ceil(bits / 8)


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_broken_off_anywhere_it_goes_on_and_ends_the_same(tmp_path, result, monkeypatch, calls):
    """Each call is a group or an epoch; what was done before is not done again."""
    done: list[str] = []

    def counted(function):
        def inner(*arguments):
            if len(done) == calls:
                raise KeyboardInterrupt
            found = function(*arguments)
            done.append(function.__name__)
            return found

        return inner

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "_group", counted(protocol._group))
        patch.setattr(protocol, "_epoch", counted(protocol._epoch))
        with pytest.raises(KeyboardInterrupt):
            whole(tmp_path)
    host = Host()
    again, _ = whole(tmp_path, host)
    assert len(host.sampled) == max(0, len(GROUPS) - calls)
    assert len(host.taught_first) == min(2, len(GROUPS) + 2 - calls)
    for name, weight in result[1].weights.items():
        assert torch.equal(weight.codes, again.weights[name].codes)
        assert torch.equal(weight.codebooks, again.weights[name].codebooks)
    for key, value in result[1].dense.items():
        assert torch.equal(value, again.dense[key])


def test_what_is_done_is_read(tmp_path):
    first, _ = whole(tmp_path)
    host = Host()
    second, lines = whole(tmp_path, host)
    assert host.sampled == [] and host.taught_first == [] and lines == []
    assert second.seconds == first.seconds > 0


@pytest.mark.parametrize("epochs", [0, 1])
def test_another_number_of_codebooks_begins_with_the_network_as_it_was(tmp_path, epochs):
    how = replace(HOW, tuning=replace(HOW.tuning, epochs=epochs))
    two = replace(how, encoding=replace(how.encoding, books=2))
    host, ledger = Host(), Ledger(tmp_path, {})
    run(host, how, ledger, "VQDM-1", lambda line: None)
    found = run(host, two, ledger, "VQDM-2", lambda line: None)
    alone = run(Host(), two, Ledger(tmp_path / "alone", {}), "VQDM-2", lambda line: None)
    for name, weight in found.weights.items():
        assert torch.equal(weight.codes, alone.weights[name].codes)


def test_a_folder_of_other_settings_is_refused(tmp_path):
    whole(tmp_path)
    with pytest.raises(VQError, match=r"run\.json, a: found 1 from an earlier run, expected 2"):
        Ledger(tmp_path, {"a": "2"})
    for text in ("{", "[]", "{}", '{"about": {"a": "1"}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(VQError, match="cannot be used"):
            Ledger(tmp_path, {"a": "1"})


def layers_of(keys: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {key.removesuffix(".weight"): shape for key, shape in keys.items() if len(shape) > 1}


@pytest.mark.parametrize(
    ("keys", "books", "expected"),
    [(sdxl(), row.books, row.bits) for row in SDXL if row.books] + [(demo(), 3, 5.55)],
)
def test_bits_are_those_of_the_paper(keys, books, expected):
    """Within 0.03, of which a part are scales and codebooks that the paper rounds."""
    shapes = layers_of(keys)
    weights = {}
    for name in (name for group in block_groups(shapes) for name in group.layers):
        rows, columns = matrix_shape(shapes[name])
        codes = torch.empty(rows, columns // 8, books, dtype=torch.uint8, device="meta")
        codebooks = torch.empty(books, 256, 8, device="meta")
        scales = torch.empty(rows, device="meta")
        weights[name] = SummedWeight(shapes[name], codes, codebooks, scales)
    size = Result(weights, {}, 0.0).size(sum(map(math.prod, keys.values())))
    assert size.bits_per_weight == pytest.approx(expected, abs=0.03)


def test_memory_is_said_beforehand():
    assert "0.00 GB (group up 0)" in needs(Host().shapes)
    assert "24.61 GB (group up 0)" in needs(layers_of(sdxl()))
