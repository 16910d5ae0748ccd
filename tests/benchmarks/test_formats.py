"""What formats make of weights, and that all that they store is counted."""

import math

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("gguf")

from benchmarks.formats.catalogue import BITS, CODECS, formats
from benchmarks.formats.floats import fp8, fp8_scaled, int8_rows, kitchen
from benchmarks.formats.format import ENDS, Format, by_layer, coded, size_in
from benchmarks.formats.nf4 import nf4
from benchmarks.formats.ours import vq
from benchmarks.weights import SHAPES
from comfy_vq import checkpoint
from comfy_vq.evaluation import sqnr_db

MATRIX = torch.randn(64, 320, generator=torch.Generator().manual_seed(0)) * 0.02


def test_fp8_is_a_cast():
    decoded, nbytes = fp8(MATRIX)
    assert torch.equal(decoded, MATRIX.to(torch.float8_e4m3fn).float()) and nbytes == MATRIX.numel()


def test_a_scale_saves_fp8_from_its_small_numbers():
    decoded, nbytes = fp8_scaled(MATRIX / 100)
    assert nbytes == MATRIX.numel() + 4
    assert sqnr_db(MATRIX / 100, decoded) > sqnr_db(MATRIX / 100, fp8(MATRIX / 100)[0]) + 10


def test_int8_has_steps_of_its_row():
    decoded, nbytes = int8_rows(MATRIX)
    assert nbytes == MATRIX.numel() + 4 * len(MATRIX)
    steps = MATRIX.abs().amax(1, keepdim=True) / 127
    assert ((decoded - MATRIX).abs() <= steps * 0.5001).all()


def test_layers_are_coded_and_the_rest_is_kept(weights, tmp_path):
    path = tmp_path / "model.safetensors"
    by_layer(lambda matrix: (torch.zeros_like(matrix), 7))(weights, path)
    decoded = load_file(path)
    layers = [key for key in SHAPES if coded(weights, key)]
    assert not set(layers) & set(ENDS) and "input_blocks.1.0.in_layers.2.weight" in layers
    for key, tensor in weights.tensors.items():
        assert decoded[key].shape == tensor.shape and decoded[key].dtype == tensor.dtype
        assert torch.equal(decoded[key], tensor) != (key in layers)
    rest = sum(t.nbytes for key, t in weights.tensors.items() if key not in layers)
    assert size_in(path).nbytes == 7 * len(layers) + rest
    assert size_in(path).numel == sum(map(math.prod, SHAPES.values()))


def test_what_is_cast_whole_takes_a_byte_a_weight(weights, tmp_path):
    path = tmp_path / "model.safetensors"
    by_layer(fp8, rest=torch.float8_e4m3fn)(weights, path)
    assert size_in(path).bits_per_weight == 8
    bias = load_file(path)["input_blocks.0.0.bias"]
    assert torch.equal(bias, weights.read("input_blocks.0.0.bias").to(torch.float8_e4m3fn).half())


def test_ours_counts_what_its_file_counts(weights, tmp_path):
    path = tmp_path / "model.safetensors"
    vq(3.0, "additive", "fast")(weights, path)
    assert size_in(path).nbytes == checkpoint.inspect(path).nbytes
    assert size_in(path).bits_per_weight == pytest.approx(3.0, abs=0.02)


def test_a_file_is_made_once(weights, tmp_path):
    made = []

    def make(_, path):
        made.append(path)
        path.write_bytes(b"whole")

    one = Format("Q4 flat", make, ".gguf")
    assert one.file(weights, tmp_path) == one.file(weights, tmp_path) == tmp_path / "Q4-flat.gguf"
    assert len(made) == 1 and [path.name for path in tmp_path.iterdir()] == ["Q4-flat.gguf"]


def test_a_file_that_was_not_finished_is_made_again(weights, tmp_path):
    def interrupted(_, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Format("Q4", interrupted).file(weights, tmp_path)
    Format("Q4", lambda _, path: path.write_bytes(b"whole")).file(weights, tmp_path)
    assert (tmp_path / "Q4.safetensors").read_bytes() == b"whole"


def test_every_format_has_a_name_and_a_file_of_its_own():
    known = formats()
    assert (
        len({one.name for one in known})
        == len({one.name.casefold() for one in known})
        == len(known)
    )
    for codec in CODECS:
        assert {f"VQ{bits:g} {codec}" for bits in BITS} <= {one.name for one in known}


@pytest.mark.parametrize(("double", "bits"), [(False, 4.5), (True, 4.127)])
def test_nf4_counts_its_scales(double, bits):
    pytest.importorskip("bitsandbytes")
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    decoded, nbytes = nf4(double)(matrix)
    assert 8 * nbytes / matrix.numel() == pytest.approx(bits, abs=1e-3)
    assert sqnr_db(matrix, decoded) == pytest.approx(20.7, abs=0.1)


@pytest.mark.parametrize(
    ("layout", "bits", "least"),
    [("TensorCoreMXFP8Layout", 8.25, 30), ("TensorCoreNVFP4Layout", 4.5, 19)],
)
def test_layouts_of_the_host_count_their_scales(layout, bits, least):
    pytest.importorskip("comfy_kitchen")
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    decoded, nbytes = kitchen(layout)(matrix)
    assert 8 * nbytes / matrix.numel() == pytest.approx(bits, abs=1e-3)
    assert sqnr_db(matrix, decoded) > least
