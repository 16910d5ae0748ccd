import itertools
import math

import pytest
import torch

from comfy_vq import codecs
from comfy_vq.codecs import encoder, trellis, viterbi
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db

EFFORTS = [effort for effort in codecs.EFFORTS if effort != "best"]


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


def windows_of(codes, length):
    """The windows of one row, bit by bit: Python ints, as docs/format.md says."""
    stream = [byte >> n & 1 for byte in codes.flatten().tolist() for n in range(8)]
    step = codes.shape[-1]
    return [
        sum(stream[(start + n) % len(stream)] << n for n in range(length))
        for start in range(0, len(stream), step)
    ]


@pytest.mark.parametrize(("bits", "least_db"), [(2, 11.25), (3, 17.0), (4, 22.65), (5, 28.2)])
def test_quality_on_gaussian_weights(bits, least_db):
    weight = gaussian(32, 1024)
    found = sqnr_db(weight, codecs.encode(weight, bits, "trellis").decode())
    assert least_db <= found < 20 * math.log10(2) * bits


@pytest.mark.parametrize("shape", [(5, 128), (6, 64), (7, 40), (3, 8), (4, 64, 3, 3), (9, 8, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decodes_to_the_shape_and_dtype_asked_for(shape, dtype):
    coded = codecs.encode(gaussian(*shape).to(dtype), 4, "trellis", effort="fast")
    decoded = coded.decode(dtype)
    assert decoded.shape == shape and decoded.dtype == dtype
    assert sqnr_db(gaussian(*shape), decoded) > 16


@pytest.mark.parametrize("bits", trellis.BITS)
@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("width", [8, 40, 64])
def test_decoding_follows_the_documented_formula(width, effort, bits):
    coded = codecs.encode(gaussian(3, width), bits, "trellis", effort, rotation=None)
    table = coded.codebooks.codebooks.flatten().float() - coded.codebooks.offset
    for row in range(3):
        states = windows_of(coded.tensors["codes"][row], coded.spec.window)
        scale = coded.tensors["scales"][row].float() * torch.tensor(coded.codebooks.step)
        assert torch.equal(coded.decode()[row], table[states] * scale)


def test_bits_count_codes_scales_and_the_table():
    coded = codecs.encode(gaussian(16, 256), 3, "trellis")
    stored = 16 * 256 * 3 + 16 * 16 + 8 * (4096 + 8)
    assert coded.bits_per_weight == stored / (16 * 256)


def test_efforts_are_ordered():
    weight = gaussian(16, 256)
    found = [
        sqnr_db(weight, codecs.encode(weight, 3, "trellis", e).decode()) for e in codecs.EFFORTS
    ]
    assert found == sorted(found) and found[1] > found[0] + 0.15


def test_rotation_helps_heavy_tails():
    weight = gaussian(16, 256) * gaussian(16, 256, seed=1).exp() ** 40
    turned = codecs.encode(weight, 3, "trellis", "fast")
    plain = codecs.encode(weight, 3, "trellis", "fast", rotation=None)
    assert sqnr_db(weight, turned.decode()) > sqnr_db(weight, plain.decode()) + 0.5


def test_unbiased_scales_shrink_nothing():
    weight = gaussian(16, 256)
    fitted, unbiased = (
        codecs.encode(weight, 2, "trellis", "fast", unbiased=u) for u in (False, True)
    )
    gain = (unbiased.decode() * weight).sum(1) / weight.square().sum(1)
    assert torch.allclose(gain, torch.ones(16), atol=2e-3)
    assert torch.equal(fitted.tensors["codes"], unbiased.tensors["codes"])


def test_the_number_of_threads_does_not_show():
    before, found = torch.get_num_threads(), []
    weight = gaussian(40, 1024)
    assert weight.numel() * 6 > encoder._CPU_SLAB  # several slabs
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(codecs.encode(weight.repeat(3, 2), 3, "trellis", "fast"))
    torch.set_num_threads(before)
    for name in ("codes", "scales"):
        assert torch.equal(found[0].tensors[name], found[1].tensors[name])


def test_zero_and_constant_rows_survive():
    weight = gaussian(4, 64)
    weight[1], weight[2] = 0, 0.5
    decoded = codecs.encode(weight, 3, "trellis", "fast").decode()
    assert torch.equal(decoded[1], torch.zeros(64))
    assert sqnr_db(weight[2], decoded[2]) > 8


@pytest.mark.parametrize(
    ("weight", "options", "says"),
    [
        (torch.randn(4, 12), {}, "multiple of 8"),
        (torch.randn(4, 8), {"bits": 1}, "trellis codes have 2 to 5 bits per weight, not 1"),
        (torch.randn(4, 8), {"bits": 6}, "not 6"),
        (torch.full((4, 8), 1e6), {}, "half precision"),
    ],
)
def test_bad_input_is_one_clear_error(weight, options, says):
    with pytest.raises(VQError, match=says):
        codecs.encode(weight, codec="trellis", **options)


def test_progress_counts_every_weight():
    done = []
    codecs.encode(gaussian(150, 1024), 2, "trellis", "fast", on_progress=done.append)
    assert sum(done) == 150 * 1024 and len(done) > 1


def best_ring(row, table, bits):
    """The least cost of any ring of windows of 4 bits, by trying all streams."""
    least = math.inf
    for digits in itertools.product(range(1 << bits), repeat=len(row)):
        stream = [digit >> n & 1 for digit in digits for n in range(bits)] * 2
        starts = range(0, len(row) * bits, bits)
        states = [sum(stream[s + n] << n for n in range(4)) for s in starts]
        cost = float((row - table[states]).square().sum())
        least = min(least, cost)
    return least


def test_a_search_finds_the_best_path_but_for_where_the_ring_closes():
    table = torch.randn(16, generator=torch.Generator().manual_seed(1))
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    codes = viterbi.search(rows, table, 1)
    gaps = []
    for row, code in zip(rows, codes, strict=True):
        error = (row - table[windows_of(code, 4)]).square()
        gaps.append(float(error.sum()) / best_ring(row, table, 1))
    assert min(gaps) == pytest.approx(1, abs=1e-4)
    assert sum(gap < 1.001 for gap in gaps) >= 3


def test_rows_are_searched_as_alone(monkeypatch):
    rows, table = gaussian(9, 64) * 50, gaussian(1024, seed=1) * 50
    together = viterbi.search(rows, table, 3)
    monkeypatch.setattr(viterbi, "_CPU_METRICS", 2 * len(table))
    assert torch.equal(viterbi.search(rows, table, 3), together)
