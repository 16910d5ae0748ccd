import pytest
import torch

from comfy_vq import codecs
from comfy_vq.errors import VQError


@pytest.mark.parametrize(("codec", "bits"), [("additive", 1), ("additive", 6), ("int8", 8)])
@pytest.mark.parametrize("shape", [(16, 128), (8, 64, 3, 3)])
def test_declared_pieces_are_what_encode_stores(codec, bits, shape):
    coded = codecs.encode(torch.randn(shape), bits, codec)
    declared = codecs.get(codec).pieces(coded.spec, shape)
    assert {n: (t.dtype, tuple(t.shape)) for n, t in coded.tensors.items()} == {
        n: (p.dtype, p.shape) for n, p in declared.items()
    }
    assert codecs.stored_bits(coded.spec, shape) == 8 * coded.nbytes
    assert coded.spec == codecs.spec_for(codec, bits, shape)


def test_records_round_trip():
    spec = codecs.AdditiveSpec(3, codecs.Rotation(64, 7))
    codec = codecs.get("additive")
    assert codec.from_record(codec.to_record(spec)) == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("codebooks", 0),
        ("codebooks", 7),
        ("codebooks", True),
        ("entries", 512),
        ("group", 4),
        ("axes", "in,out"),
        ("rotation", 64),
        ("rotation", {"block": 48, "seed": 0}),
        ("rotation", {"block": 64, "seed": -1}),
        ("rotation", {"block": 64, "seed": 2**64}),
    ],
)
def test_bad_records_name_the_field(field, value):
    codec = codecs.get("additive")
    record = codec.to_record(codecs.AdditiveSpec(3)) | {field: value}
    with pytest.raises(VQError, match=field):
        codec.from_record(record)


def test_names_are_taken_once():
    with pytest.raises(VQError, match="registered already"):
        codecs.register(codecs.get("int8"))


def test_widths_are_ordered_by_what_they_are_worth():
    quality = [w.sqnr_db for w in codecs.WIDTHS if w.codec == "additive"]
    assert quality == sorted(quality) and len(quality) == 6


def test_a_rotation_that_does_not_fit_the_width_is_refused():
    spec = codecs.AdditiveSpec(3, codecs.Rotation(128, 0))
    with pytest.raises(VQError, match=r"rotation\.block: found 128.*width 64"):
        codecs.get("additive").pieces(spec, (16, 64))
