import math

import pytest
import torch

from comfy_vq import codecs
from comfy_vq.codecs import beam
from comfy_vq.codecs.weight import from_matrix, matrix_shape, to_matrix
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.02


@pytest.mark.parametrize("books", range(1, 7))
def test_quality_on_gaussian_weights_is_what_the_plan_expects(books):
    weight = gaussian(256, 512)
    expected = next(w.sqnr_db for w in codecs.WIDTHS if (w.codec, w.bits) == ("additive", books))
    assert sqnr_db(weight, codecs.encode(weight, books).decode()) == pytest.approx(
        expected, abs=0.25
    )


SHAPES = [(40, 128), (24, 64), (16, 40), (8, 64, 3, 3), (16, 8, 1, 1), (8, 64, 3), (8, 16, 3, 2, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_decodes_to_the_shape_and_dtype_asked_for(shape, dtype):
    coded = codecs.encode(gaussian(*shape).to(dtype), 4)
    assert coded.decode(dtype).shape == shape
    assert coded.decode(dtype).dtype == dtype
    assert sqnr_db(gaussian(*shape), coded.decode()) > 15


def test_convolutions_decode_to_channels_last_without_a_copy():
    decoded = codecs.encode(gaussian(8, 64, 3, 3), 2).decode()
    assert decoded.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [(3,), (2, 3), (3, 1, 2)], ids=str)
def test_columns_are_input_channels_tap_by_tap(kernel):
    weight = gaussian(8, 64, *kernel)
    matrix = to_matrix(weight)
    taps = weight.flatten(2)
    assert matrix.shape == matrix_shape(weight.shape)
    for column in (0, 63, 64, 130):
        assert torch.equal(matrix[:, column], taps[:, column % 64, column // 64])
    assert torch.equal(from_matrix(matrix, weight.shape), weight)


def test_bits_count_codes_scales_and_codebooks():
    coded = codecs.encode(gaussian(64, 256), 3)
    stored = 64 * 256 * 3 + 64 * 16 + 8 * (3 * 256 * 8 + 8)
    assert coded.bits_per_weight == stored / (64 * 256)


def test_decoding_follows_the_documented_formula():
    coded = codecs.encode(gaussian(16, 64), 3, rotation=None)
    codes, scales, shared = coded.tensors["codes"], coded.tensors["scales"], coded.codebooks
    for row, group in [(0, 0), (7, 3), (15, 7)]:
        total = sum(shared.codebooks[m, codes[row, group, m].item()].float() for m in range(3))
        expected = scales[row].float() * torch.tensor(shared.step) * (total - shared.offset)
        assert torch.equal(coded.decode()[row, 8 * group : 8 * group + 8], expected)


def test_rotation_helps_heavy_tails():
    weight = gaussian(128, 256) * gaussian(128, 256, seed=1).exp() ** 40
    turned = sqnr_db(weight, codecs.encode(weight, 3).decode())
    plain = sqnr_db(weight, codecs.encode(weight, 3, rotation=None).decode())
    assert turned > plain + 0.5


def test_efforts_are_ordered():
    weight = gaussian(128, 256)
    found = [sqnr_db(weight, codecs.encode(weight, 3, effort=e).decode()) for e in codecs.EFFORTS]
    assert found == sorted(found) and found[-1] > found[0] + 0.3


def test_unbiased_scales_shrink_nothing_and_cost_little():
    weight = gaussian(64, 512)
    fitted, unbiased = (codecs.encode(weight, 2, unbiased=u) for u in (False, True))
    gain = (unbiased.decode() * weight).sum(1) / weight.square().sum(1)
    assert torch.allclose(gain, torch.ones(64), atol=2e-3)
    assert (fitted.decode() * weight).sum() / weight.square().sum() < 0.93
    assert torch.equal(fitted.tensors["codes"], unbiased.tensors["codes"])
    loss = sqnr_db(weight, fitted.decode()) - sqnr_db(weight, unbiased.decode())
    assert 0 < loss < 0.6


def test_same_seed_same_bits_other_seed_other_rotation():
    weight = gaussian(64, 128)
    a, b, c = (codecs.encode(weight, 2, effort="best", seed=s) for s in (5, 5, 6))
    assert torch.equal(a.tensors["codes"], b.tensors["codes"])
    assert torch.equal(a.tensors["scales"], b.tensors["scales"])
    assert not torch.equal(a.tensors["codes"], c.tensors["codes"])


def test_own_set_only_where_it_pays():
    small = codecs.encode(gaussian(32, 64), 2, effort="best")
    assert small.codebooks is not None and small.codebooks.name == "gaussian-M2"
    forced = codecs.encode(gaussian(64, 512), 2, own_codebooks=True)
    assert forced.codebooks is not None and forced.codebooks.name == codecs.OWN


def test_shipped_sets_keep_every_sum_of_entries_within_a_byte():
    for books in range(1, 7):
        shared = codecs.shipped_set(books)
        entries = shared.codebooks.to(torch.int64)
        assert entries.amax((1, 2)).sum() <= 255
        assert shared.offset == 128 and shared.codebooks.shape == (books, 256, 8)


def test_zero_and_constant_rows_survive():
    weight = gaussian(8, 64)
    weight[2], weight[5] = 0, 0.5
    decoded = codecs.encode(weight, 3).decode()
    assert torch.equal(decoded[2], torch.zeros(64))
    assert sqnr_db(weight[5], decoded[5]) > 8
    assert torch.equal(codecs.encode(torch.zeros(8, 64), 2).decode(), torch.zeros(8, 64))


def test_float8_weights_are_taken():
    weight = gaussian(16, 64).to(torch.float8_e4m3fn)
    assert sqnr_db(weight.float(), codecs.encode(weight, 4).decode()) > 15


@pytest.mark.parametrize(
    ("weight", "options", "says"),
    [
        (torch.randn(4, 12), {}, "multiple of 8"),
        (torch.randn(4), {}, "expected"),
        (torch.empty(0, 8), {}, "expected"),
        (torch.tensor([[math.nan] * 8]), {}, "NaN or Inf"),
        (torch.tensor([[math.inf] * 8]), {}, "NaN or Inf"),
        (torch.ones(4, 8, dtype=torch.int32), {}, "floating point"),
        (torch.full((4, 8), 1e6), {}, "half precision"),
        (torch.full((4, 8), 1e-7), {}, "half precision"),
        (torch.randn(4, 8), {"bits": 9}, "1 to 6"),
        (torch.randn(4, 8), {"codec": "magic"}, "unknown codec"),
        (torch.randn(4, 8), {"effort": "heroic"}, "unknown effort"),
        (torch.randn(4, 8), {"moments": torch.ones(8, 8)}, "shape"),
        (torch.randn(4, 8), {"moments": torch.ones(1, 4, 4)}, "shape"),
        (torch.randn(4, 8), {"moments": torch.zeros(1, 8, 8)}, "zero; calibrate again"),
    ],
)
def test_bad_input_is_one_clear_error(weight, options, says):
    with pytest.raises(VQError, match=says):
        codecs.encode(weight, **options)


def test_progress_counts_every_weight_and_may_interrupt():
    done = []
    codecs.encode(gaussian(64, 512), 2, on_progress=done.append)
    assert sum(done) == 64 * 512

    def stop(_weights):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        codecs.encode(gaussian(64, 512), 2, on_progress=stop)


def test_bucketed_selection_equals_topk():
    scores = torch.randn(40, 2048, generator=torch.Generator().manual_seed(0))
    values, indices = beam.smallest(scores, 8)
    assert torch.equal(values.sort().values, scores.topk(8, largest=False).values)
    assert torch.equal(scores.gather(1, indices), values)


def test_a_full_beam_is_exhaustive():
    groups = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    tables = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))
    codes, errors = beam.search(groups, tables, 16)
    sums = tables[0][:, None] + tables[1][None]
    nearest = (groups[:, None, None] - sums).square().sum(-1).flatten(1).amin(1)
    assert torch.allclose(errors, nearest, atol=1e-4)
    rebuilt = tables[0][codes[:, 0].long()] + tables[1][codes[:, 1].long()]
    assert torch.allclose((groups - rebuilt).square().sum(1), errors, atol=1e-4)
