from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from comfy_vq import calibration, checkpoint
from comfy_vq.calibration.file import is_calibration
from comfy_vq.errors import VQError

from .networks import calibrated, network, question, same


@pytest.fixture(scope="module")
def found() -> calibration.Calibration:
    return calibrated(network(), question(0), question(1))


@pytest.fixture
def path(found, tmp_path: Path) -> Path:
    calibration.save(tmp_path / "found.safetensors", found)
    return tmp_path / "found.safetensors"


def test_what_is_loaded_is_what_was_saved(found, path):
    loaded = calibration.load(path)
    assert same(loaded, found) and loaded.digest() == found.digest()
    assert loaded.moments["q"] is loaded.moments["v"]
    assert is_calibration(path) and not checkpoint.is_vq(path)


def test_the_same_calibration_gives_the_same_bytes(found, path, tmp_path):
    calibration.save(tmp_path / "again.safetensors", calibration.load(path))
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_what_was_saved_is_continued_as_if_it_had_never_been_interrupted(tmp_path):
    net, file = network(), tmp_path / "so_far.safetensors"
    whole = calibrated(net, *map(question, range(4)))
    calibration.save(file, calibrated(net, question(0)))
    for seed in range(1, 4):
        calibration.save(file, calibrated(net, question(seed), start=calibration.load(file)))
    assert same(calibration.load(file), whole)


def test_two_halves_merge_into_the_whole_up_to_rounding(found):
    net = network()
    merged = calibrated(net, question(0)).merged(calibrated(net, question(1)))
    assert merged.pictures == found.pictures and merged.moments["q"] is merged.moments["k"]
    for name, moments in found.moments.items():
        assert merged.moments[name].count == moments.count
        torch.testing.assert_close(merged.moments[name].sums, moments.sums)


def test_the_digest_tells_calibrations_apart(found):
    net = network()
    digests = {found.digest(), calibrated(net, question(0)).digest()}
    digests.add(calibrated(net, question(1), question(0)).digest())
    assert len(digests) >= 2
    assert calibrated(net, question(0), question(1)).digest() == found.digest()


def test_a_writer_that_is_killed_leaves_the_earlier_file(path, tmp_path):
    before = path.read_bytes()
    code = (
        "import os, sys; from comfy_vq import calibration; from comfy_vq.checkpoint import atomic\n"
        "atomic.os.replace = lambda *paths: os._exit(9)\n"
        "calibration.save(sys.argv[1], calibration.load(sys.argv[1]))"
    )
    checkout = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=checkout, check=False)
    assert done.returncode == 9 and path.read_bytes() == before
    calibration.save(path, calibration.load(path))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_values_that_are_not_finite_are_not_written(tmp_path):
    found = calibrated(network(), question(0))
    found.moments["q"].sums[0, 0, 0] = torch.nan
    with pytest.raises(VQError, match="layer k: found NaN or Inf|layer q: found NaN or Inf"):
        calibration.save(tmp_path / "bad.safetensors", found)
    assert not list(tmp_path.iterdir())


Change = Callable[[dict, dict], object]


def _layers(change: Callable[[dict], object]) -> Change:
    def changed(tensors: dict, metadata: dict) -> None:
        layers = json.loads(metadata["vq.calibration.layers"])
        change(layers)
        metadata["vq.calibration.layers"] = json.dumps(layers)

    return changed


def _field(name: str, value: str) -> Change:
    return lambda tensors, metadata: metadata.update({f"vq.calibration{name}": value})


def _tensor(name: str, value: torch.Tensor) -> Change:
    return lambda tensors, metadata: tensors.update({name: value})


BAD: dict[str, tuple[Change, str]] = {
    "no calibration": (lambda t, m: m.clear(), "file: found another kind of safetensors file"),
    "of a newer version": (_field("", "2"), "vq.calibration: found '2', expected '1'; update"),
    "pictures missing": (
        lambda t, m: m.pop("vq.calibration.pictures"),
        "vq.calibration.pictures: found None",
    ),
    "pictures no number": (_field(".pictures", "٣"), "vq.calibration.pictures: found '٣'"),
    "pictures huge": (_field(".pictures", "9" * 5000), "vq.calibration.pictures: found '999"),
    "layers no JSON": (_field(".layers", "{"), "vq.calibration.layers: found text that is not"),
    "layers a list": (_field(".layers", "[]"), "vq.calibration.layers: found a JSON list"),
    "counts no list": (_field(".counts", "3"), "vq.calibration.counts: found 3"),
    "a count of zero": (_field(".counts", "[0, 1, 2, 3]"), "counts: found [0, 1, 2, 3]"),
    "a count too many": (
        lambda t, m: m.update({"vq.calibration.counts": m["vq.calibration.counts"][:-1] + ", 7]"}),
        "tensor vq.moments.4: found no such tensor",
    ),
    "a tensor too many": (_tensor("more", torch.zeros(1)), "tensor more: found a tensor that"),
    "a layer without shape": (_layers(lambda x: x.update(q=None)), "layer q: found None"),
    "a flat layer": (_layers(lambda x: x.update(q=[[16], 1])), "layer q, shape: found [16]"),
    "a shape of zero": (_layers(lambda x: x.update(q=[[16, 0], 1])), "shape: found [16, 0]"),
    "a number beyond all": (_layers(lambda x: x["q"].__setitem__(1, 9)), "number: found 9"),
    "moments of another width": (
        _layers(lambda x: x["q"].__setitem__(0, [16, 24])),
        "layer q, moments: found [1, 16, 16] for a weight of shape [16, 24]",
    ),
    "moments of no layer": (
        _layers(lambda x: [x[n].__setitem__(1, None) for n in "qkv"]),
        "found moments of no layer",
    ),
    "half precision": (
        _tensor("vq.moments.0", torch.zeros(1, 16, 16).half()),
        "tensor vq.moments.0: found torch.float16 [1, 16, 16], expected float32",
    ),
    "not square": (
        _tensor("vq.moments.0", torch.zeros(1, 16, 8)),
        "found torch.float32 [1, 16, 8]",
    ),
    "NaN": (
        _tensor("vq.moments.0", torch.full((1, 16, 16), torch.nan)),
        "tensor vq.moments.0: found NaN or Inf",
    ),
    "negative squares": (
        _tensor("vq.moments.0", -torch.ones(1, 16, 16)),
        "tensor vq.moments.0: found a negative sum of squares",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_clear_error(path, name):
    change, message = BAD[name]
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(VQError) as caught:
        calibration.load(path)
    said = str(caught.value)
    assert message in said and said.startswith(f"{path}: ")
    assert re.fullmatch(r".+: found .+, expected .+; .+", said) and said.isprintable()


def test_a_file_cut_short_is_refused(path):
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(VQError, match="the file is cut short"):
        calibration.load(path)


def test_a_calibration_of_another_model_is_refused_by_the_layer_that_differs(found):
    shapes = dict(found.shapes)
    found.check({**shapes, "more": (8, 8)})
    with pytest.raises(VQError, match=r"layer q: found a weight of shape \[16, 32\]"):
        found.check({**shapes, "q": (16, 32)})
