"""Coding under second moments: what counts is the error of the layer's output."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from comfy_vq import codecs, kernels
from comfy_vq.codecs import beam, feedback
from comfy_vq.codecs.codebooks import gaussian_sqnr_db
from comfy_vq.codecs.scales import weighted
from comfy_vq.codecs.weight import to_matrix
from comfy_vq.errors import VQError

CODECS = ("additive", "trellis")


def inputs(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated, as activations are: a few directions hold most of the power."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99))
    powers = torch.arange(1, width + 1).float() ** -0.75
    return torch.randn(count, width, generator=generator) * powers @ mix


def moments(x: Tensor) -> Tensor:
    return (x.T @ x / len(x))[None]


def weight(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 8


def output_db(w: Tensor, coded: codecs.VQWeight, x: Tensor) -> float:
    signal, noise = x @ w.T, x @ (w - coded.decode()).T
    return 10 * math.log10(float(signal.square().sum() / noise.square().sum()))


def encode(w: Tensor, codec: str, **options) -> codecs.VQWeight:
    return codecs.encode(w, 3, codec, "fast", unbiased=True, **options)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rotation", ["auto", None])
def test_the_output_is_much_nearer_on_inputs_that_were_not_seen(codec, rotation):
    w, seen, other = weight(48, 128), inputs(2000, 128), inputs(500, 128, seed=5)
    plain = encode(w, codec, rotation=rotation)
    fed = encode(w, codec, rotation=rotation, moments=moments(seen))
    assert output_db(w, fed, other) > output_db(w, plain, other) + 3


@pytest.mark.parametrize("codec", CODECS)
def test_under_uncorrelated_inputs_nothing_is_fed_back(codec):
    w, x = weight(48, 128), torch.eye(128)
    plain, fed = encode(w, codec), encode(w, codec, moments=torch.eye(128)[None])
    assert output_db(w, fed, x) == pytest.approx(output_db(w, plain, x), abs=0.5)


def test_additive_codes_under_uncorrelated_inputs_are_the_plain_ones():
    shared, rows = codecs.shipped_set(3), weight(48, 128) * 8
    aim = feedback.aim_at(torch.eye(128)[None], None, 128, backwards=False)
    codes = feedback.additive(rows, shared.values(), 2, aim)
    plain = beam.search(rows.view(-1, 8), shared.values(), 2)[0].view(codes.shape)
    same = (codes == plain).float().mean()
    assert same > 0.999  # but for ties, since sums are rounded another way


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_paths_are_better_than_groups_with_feedback_as_they_are_without(bits):
    w, seen, other = weight(32, 320), inputs(2000, 320), inputs(500, 320, seed=5)
    found = {
        codec: codecs.encode(w, bits, codec, unbiased=True, moments=moments(seen))
        for codec in CODECS
    }
    db = {codec: output_db(w, coded, other) for codec, coded in found.items()}
    assert db["trellis"] > db["additive"] + 0.2


@pytest.mark.parametrize("backwards", [True, False])
def test_what_is_attainable_is_the_row_where_inputs_are_strong_and_nothing_where_there_are_none(
    backwards,
):
    """In a basis of its own, so that single directions are seen."""
    basis = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(3)))[0]
    powers = torch.cat((torch.full((16,), 4.0), torch.zeros(48)))
    h = (basis * powers) @ basis.T
    aim = feedback.aim_at(h[None], None, 64, backwards=backwards)
    rows = weight(8, 64) * 8
    share = (feedback.attainable(rows, aim, "additive", 3) @ basis) / (rows @ basis)
    # damped powers are p + 0.01, their geometric mean times the codes' noise is N
    level = (4.01**16 * 0.01**48) ** (1 / 64) * 10 ** (-gaussian_sqnr_db()["additive", 3] / 10)
    expected = (1 - level / (powers + 0.01)).expand(8, -1)
    torch.testing.assert_close(share, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("codec", CODECS)
def test_leaving_out_what_no_bits_are_left_for_brings_the_output_nearer(codec, monkeypatch):
    w, seen, other = weight(48, 128), inputs(2000, 128), inputs(500, 128, seed=5)
    left_out = codecs.encode(w, 2, codec, "fast", unbiased=True, moments=moments(seen))
    monkeypatch.setattr(feedback, "attainable", lambda unit, *_: unit)
    kept = codecs.encode(w, 2, codec, "fast", unbiased=True, moments=moments(seen))
    assert output_db(w, left_out, other) > output_db(w, kept, other) + 0.3


@pytest.mark.parametrize("codec", CODECS)
def test_rows_that_the_codec_can_hold_are_found_under_any_moments(codec):
    """From all that is fed back, the ring of a path, and the order of coding the very rows come out."""
    shared = codecs.shipped_table(3, 10) if codec == "trellis" else codecs.shipped_set(3)
    kind = kernels.Trellis if codec == "trellis" else kernels.Additive

    def decoded(codes: Tensor) -> Tensor:
        grid = shared.codebooks, shared.step, shared.offset
        return kernels.decode(kind(codes, *grid, torch.ones(16), None, 128), torch.float32)

    rows = decoded(encode(weight(16, 128), codec, rotation=None).tensors["codes"])
    aim = feedback.aim_at(moments(inputs(2000, 128)), None, 128, backwards=codec == "trellis")
    if codec == "trellis":
        codes = feedback.trellis(rows, shared.values().flatten(), 3, aim)
    else:
        codes = feedback.additive(rows, shared.values(), 64, aim)
    torch.testing.assert_close(decoded(codes), rows)


@pytest.mark.parametrize("codec", CODECS)
def test_taps_with_moments_in_common_are_coded_as_with_moments_of_their_own(codec):
    w, shared = weight(16, 64, 3, 1), moments(inputs(500, 64))
    each = encode(w, codec, moments=shared.repeat(3, 1, 1))
    common = encode(w, codec, moments=shared)
    assert torch.equal(each.tensors["codes"], common.tensors["codes"])


@pytest.mark.parametrize("codec", CODECS)
def test_rows_are_coded_alike_whatever_else_is_coded_with_them(codec):
    w, h = weight(40, 128), moments(inputs(500, 128))
    whole, part = encode(w, codec, moments=h), encode(w[:8], codec, moments=h)
    same = (whole.tensors["codes"][:8] == part.tensors["codes"]).float().mean()
    assert same > 0.99


@pytest.mark.parametrize("codec", CODECS)
def test_the_number_of_threads_does_not_show(codec):
    w, h, before = weight(40, 128), moments(inputs(500, 128)), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(encode(w, codec, moments=h).tensors["codes"])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize(("codec", "bits", "rows"), [("additive", 1, 256), ("trellis", 2, 128)])
def test_on_a_cpu_the_harder_search_can_be_cancelled_after_fewer_weights(codec, bits, rows):
    w, pieces = weight(rows, 1024), {}
    for effort in ("fast", "best"):
        done = pieces[effort] = []
        options = {"own_codebooks": False} if codec == "additive" else {}
        codecs.encode(
            w,
            bits,
            codec,
            effort,
            moments=torch.eye(1024)[None],
            on_progress=done.append,
            **options,
        )
        assert sum(done) == w.numel()
    assert max(pieces["best"]) <= max(pieces["fast"]) // 2


def test_moments_are_rotated_as_columns_are():
    """Blocks cut from a wide input, each with its own part of the signs."""
    rotation, x = codecs.Rotation(64, 3), inputs(500, 256)
    h = moments(x)[0]
    cut = torch.stack([h[:128, :128], h[128:, 128:]])
    turned = kernels.rotate(x, rotation, 256)
    whole = moments(turned)[0]
    expected = torch.stack([whole[:128, :128], whole[128:, 128:]])
    torch.testing.assert_close(
        feedback.turned_moments(cut, rotation, 256), expected, rtol=1e-3, atol=1e-3
    )
    taps = feedback.turned_moments(h[None], rotation, 256)
    torch.testing.assert_close(taps[0], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backwards", [True, False])
def test_the_factor_is_that_of_the_inverse_in_the_order_of_coding(backwards):
    h = moments(inputs(500, 64))
    aim = feedback.aim_at(h, None, 64, backwards=backwards)
    order, factor = aim.orders[0], aim.factors[0].double()
    assert torch.equal(factor, factor.triu()) and order.sort().values.tolist() == list(range(64))
    damped = h[0].double() + feedback.DAMPING * h[0].diagonal().double().mean() * torch.eye(64)
    expected = torch.linalg.inv(damped[order][:, order])
    torch.testing.assert_close(factor.T @ factor, expected, rtol=1e-3, atol=1e-3)


def test_a_row_scale_leaves_no_share_of_the_output_out():
    """<w, w> = <w, decoded> under the moments: what is decoded shrinks nothing."""
    w, h = weight(16, 128), moments(inputs(500, 128))
    decoded = to_matrix(encode(w, "additive", moments=h).decode())
    aimed = weighted(w, h)
    torch.testing.assert_close((aimed * decoded).sum(1), (aimed * w).sum(1), rtol=2e-3, atol=1e-6)


def test_inputs_in_few_directions_do_not_break_it():
    w, x = weight(16, 128), inputs(3, 128)
    fed = encode(w, "additive", moments=moments(x))
    assert output_db(w, fed, x) > 30
    assert torch.isfinite(fed.decode()).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.eye(64)[None], r"found moments of shape \[1, 64, 64\].*divides 96"),
        (torch.eye(96), r"found moments of shape \[96, 96\]"),
        (torch.eye(96)[None] * torch.nan, "not finite, or zero"),
        (torch.zeros(1, 96, 96), "not finite, or zero"),
    ],
)
def test_moments_of_another_layer_are_refused(bad, message):
    with pytest.raises(VQError, match=message):
        encode(weight(8, 96), "additive", moments=bad)


def test_moments_of_no_input_are_an_error_of_their_own():
    bad = torch.eye(64)
    bad[0, 1] = bad[1, 0] = 50.0
    with pytest.raises(torch.linalg.LinAlgError):
        encode(weight(8, 64), "additive", moments=bad[None])
