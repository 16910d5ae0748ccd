import pytest
import torch

from comfy_vq import codecs
from comfy_vq.errors import VQError


@pytest.mark.parametrize(
    ("codec", "bits"),
    [("additive", 1), ("additive", 6), ("trellis", 2), ("trellis", 5), ("int8", 8)],
)
@pytest.mark.parametrize("shape", [(16, 128), (8, 64, 3, 3)])
def test_declared_pieces_are_what_encode_stores(codec, bits, shape):
    coded = codecs.encode(torch.randn(shape), bits, codec)
    declared = codecs.get(codec).pieces(coded.spec, shape)
    assert {n: (t.dtype, tuple(t.shape)) for n, t in coded.tensors.items()} == {
        n: (p.dtype, p.shape) for n, p in declared.items()
    }
    assert codecs.stored_bits(coded.spec, shape) == 8 * coded.nbytes
    assert coded.spec == codecs.spec_for(codec, bits, shape)


SPECS = [
    codecs.AdditiveSpec(3, codecs.Rotation(64, 7)),
    codecs.TrellisSpec(5, 10, codecs.Rotation(64, 7)),
    codecs.TrellisSpec(2),
    codecs.Int8Spec(),
]


@pytest.mark.parametrize("effort", codecs.EFFORTS)
def test_specifications_are_known_before_for_any_effort(effort):
    coded = codecs.encode(torch.randn(8, 64), 3, "trellis", effort)
    assert coded.spec == codecs.spec_for("trellis", 3, (8, 64), effort=effort)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_records_round_trip(spec):
    codec = codecs.get(spec.codec)
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


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bits", 1),
        ("bits", 6),
        ("bits", 3.0),
        ("window", 11),
        ("window", True),
        ("axes", "in,out"),
        ("rotation", {"block": 3, "seed": 0}),
    ],
)
def test_bad_records_of_a_trellis_name_the_field(field, value):
    codec = codecs.get("trellis")
    record = codec.to_record(codecs.TrellisSpec(3)) | {field: value}
    with pytest.raises(VQError, match=f"codec trellis, field {field}"):
        codec.from_record(record)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_records_with_other_fields_are_refused(spec):
    codec = codecs.get(spec.codec)
    with pytest.raises(VQError, match=f"codec {spec.codec}: found fields .*surprise"):
        codec.from_record(codec.to_record(spec) | {"surprise": 1})


def test_names_are_taken_once():
    with pytest.raises(VQError, match="registered already"):
        codecs.register(codecs.get("int8"))


def test_widths_are_ordered_by_what_they_are_worth():
    quality = [w.sqnr_db for w in codecs.WIDTHS if w.codec == "additive"]
    assert quality == sorted(quality) and len(quality) == 6


@pytest.mark.parametrize("kind", [codecs.AdditiveSpec, codecs.TrellisSpec])
def test_a_rotation_that_does_not_fit_the_width_is_refused(kind):
    spec = kind(3, rotation=codecs.Rotation(128, 0))
    with pytest.raises(VQError, match=r"rotation\.block: found 128.*width 64"):
        codecs.get(spec.codec).pieces(spec, (16, 64))
