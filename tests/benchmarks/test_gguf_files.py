"""GGUF files of a UNet, by the rules that ComfyUI-GGUF's tools follow."""

import math

import pytest
import torch

gguf = pytest.importorskip("gguf")

from benchmarks.formats import gguf_files
from benchmarks.formats.format import size_in
from benchmarks.formats.gguf_files import MIXES, Placed, as_comfyui_gguf, flattened
from benchmarks.weights import SHAPES
from comfy_vq.checkpoint.gguf import gguf_size, load_gguf
from comfy_vq.evaluation import sqnr_db

BLOCK = "input_blocks.1.1.transformer_blocks."
VALUES = [key for key in SHAPES if key.endswith("to_v.weight")]


@pytest.fixture
def placed(weights):
    return lambda name: dict(as_comfyui_gguf(MIXES[name])(weights))


def test_rows_that_do_not_fit_are_cut_anew(placed):
    q5 = placed("Q5_K_S")
    assert q5["input_blocks.1.0.in_layers.2.weight"] == Placed("Q5_K", 256)
    assert q5["input_blocks.1.1.proj_in.weight"] == Placed("Q5_K", 256)
    assert q5["input_blocks.1.0.emb_layers.1.weight"] == Placed("Q5_K", None)


def test_embeddings_ends_and_what_has_one_dimension_stay(placed):
    q5 = placed("Q5_K_S")
    for key in ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight"):
        assert q5[key].kind is None
    assert q5["input_blocks.1.0.in_layers.0.weight"] == Placed()


def test_what_fits_no_block_becomes_float16(placed):
    assert placed("Q4_K_S")["odd.weight"] == Placed("F16", None)


def test_mixed_types_keep_some_layers_finer(placed):
    second = f"{BLOCK}0.ff.net.2.weight"
    q4 = placed("Q4_K_S")
    assert [q4[key].kind for key in VALUES] == ["Q5_K"] * 4 + ["Q4_K"] * 2
    assert q4[second].kind == "Q5_K"
    q2 = placed("Q2_K")
    assert {q2[key].kind for key in VALUES} == {"Q3_K"} and q2[second].kind == "Q2_K"
    assert placed("Q4_0")[second].kind == "Q4_1"
    assert {one.kind for one in placed("Q3_K_S").values()} == {None, "F16", "Q3_K"}


def test_the_flat_variant_spares_the_ends_alone(weights):
    found = dict(flattened("Q4_K")(weights))
    kept = {key for key in SHAPES if weights.codable(key) and found[key].kind is None}
    assert kept == {"input_blocks.0.0.weight", "out.2.weight", "odd.weight"}  # 300 weights
    assert found["time_embed.0.weight"] == Placed("Q4_K", 256)


@pytest.mark.parametrize("name", list(MIXES))
def test_a_file_takes_what_the_rules_say(real_ggml, weights, tmp_path, name):
    path, rule = tmp_path / "model.gguf", as_comfyui_gguf(MIXES[name])
    gguf_files.write(rule)(weights, path)
    expected = 0
    for key, one in rule(weights):
        block, nbytes = (
            (1, 2)
            if one.kind in (None, "F16")
            else gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[one.kind]]
        )
        expected += math.prod(SHAPES[key]) // block * nbytes
    assert gguf_size(path) == (expected, sum(map(math.prod, SHAPES.values())))
    assert size_in(path).nbytes == expected


def test_a_file_decodes_to_the_weights_in_their_shapes(real_ggml, weights, tmp_path):
    path = tmp_path / "model.gguf"
    gguf_files.write(as_comfyui_gguf(MIXES["Q8_0"]))(weights, path)
    decoded = load_gguf(path)
    assert set(decoded) == set(SHAPES)
    for key, tensor in decoded.items():
        assert tuple(tensor.shape) == SHAPES[key]
        assert sqnr_db(weights.read(key).float(), tensor.float()) > 40
    assert torch.equal(decoded["time_embed.0.weight"], weights.read("time_embed.0.weight"))


def test_the_reader_finds_the_types_that_were_asked_for(real_ggml, weights, tmp_path):
    path = tmp_path / "model.gguf"
    gguf_files.write(as_comfyui_gguf(MIXES["Q4_K_S"]))(weights, path)
    found = {one.name: one.tensor_type.name for one in gguf.GGUFReader(path).tensors}
    assert [found[key] for key in VALUES] == ["Q5_K"] * 4 + ["Q4_K"] * 2
    assert found["odd.weight"] == found["input_blocks.0.0.bias"] == "F16"
