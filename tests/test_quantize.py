import pytest
import torch

from comfy_vq import codecs
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db
from comfy_vq.quantize import plan_for, quantize
from toy_weights import Weights


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return (torch.randn(*shape, generator=generator) * 0.02).half()

    blocks = {f"blocks.{i}.{n}.weight": random(256, 256) for i in range(10) for n in ("q", "ff")}
    return Weights(
        {
            **blocks,
            "conv.weight": random(128, 64, 3, 3),
            "odd.weight": random(64, 36),
            "norm.weight": random(256),
            "blocks.0.q.bias": random(256),
        }
    )


@pytest.mark.parametrize(("bits", "effort"), [(2.2, "fast"), (3.0, "best"), (4.5, "balanced")])
def test_the_average_over_the_whole_model_is_met(weights, bits, effort):
    model = quantize(weights, bits, effort=effort)
    assert model.bits_per_weight == pytest.approx(bits, abs=0.02)
    assert model.numel == sum(t.numel() for t in weights.tensors.values())


@pytest.mark.parametrize("bits", [2.2, 3.0])
def test_a_model_is_coded_by_the_codec_asked_for(weights, bits):
    model = quantize(weights, bits, effort="fast", codec="trellis")
    assert model.bits_per_weight == pytest.approx(bits, abs=0.02)
    assert "trellis" in {w.codec for w in model.layers.values()} <= {"trellis", "additive", "int8"}
    additive = quantize(weights, bits, effort="balanced")

    def noise(coded):
        decoded = coded.decode(torch.float32)
        errors = (decoded[k] - t.float() for k, t in weights.tensors.items())
        return sum(float(error.square().sum()) for error in errors)

    assert noise(model) < 0.9 * noise(additive)


def test_a_trellis_shrinks_nothing_either(weights):
    model = quantize(weights, 2.2, effort="fast", codec="trellis")
    name, coded = next((n, w) for n, w in model.layers.items() if w.codec == "trellis")
    weight = weights.tensors[f"{name}.weight"].float()
    assert (coded.decode() * weight).sum() / weight.square().sum() == pytest.approx(1, abs=2e-3)


def test_every_tensor_is_either_coded_or_kept_as_it_is(weights):
    model = quantize(weights, 3.5, effort="fast", exclude=["conv"])
    decoded = model.decode()
    assert decoded.keys() == weights.tensors.keys()
    for name in ("conv.weight", "norm.weight", "blocks.0.q.bias"):
        assert torch.equal(decoded[name], weights.tensors[name])
    for name, coded in model.layers.items():
        assert coded.dtype == torch.float16
        assert sqnr_db(weights.tensors[f"{name}.weight"], decoded[f"{name}.weight"]) > 3


def test_layers_share_their_codebook_sets(weights):
    model = quantize(weights, 3.0, effort="fast")
    assert set(model.codebook_sets()) <= {f"gaussian-M{m}" for m in range(1, 7)}
    used = {w.spec.codebooks for w in model.layers.values() if w.codec == "additive"}
    assert len(model.codebook_sets()) == len(used)


def test_progress_ends_at_the_total_and_interrupts(weights):
    seen = []
    quantize(weights, 3.0, effort="fast", progress=seen.append)
    assert seen[-1].done == pytest.approx(seen[-1].total)

    def stop(_progress):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        quantize(weights, 3.0, effort="fast", progress=stop)


def test_a_layer_that_is_not_finite_is_named(weights):
    weights.tensors["blocks.1.q.weight"][3, 4] = torch.nan
    with pytest.raises(VQError, match=r"blocks\.1\.q.*NaN"):
        quantize(weights, 3.0, effort="fast")


def test_nothing_is_coded_where_the_last_tensor_is_not_finite(weights, monkeypatch):
    weights.tensors["blocks.0.q.bias"] = torch.tensor([1.0, torch.inf]).bfloat16()
    monkeypatch.setattr(codecs, "encode", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(VQError, match=r"blocks\.0\.q\.bias: found NaN or Inf, expected.*; repair"):
        quantize(weights, 3.0, effort="fast")


def test_a_layer_beyond_half_precision_scales_stays_dense(weights):
    weights.tensors["blocks.1.q.weight"] = torch.full((256, 256), 1e9, dtype=torch.float32)
    model = quantize(weights, 4.0, effort="fast")
    assert "blocks.1.q" not in model.layers
    assert torch.equal(model.dense["blocks.1.q.weight"], weights.tensors["blocks.1.q.weight"])


def test_a_plan_can_be_made_first_and_passed(weights):
    plan = plan_for(weights, 3.0)
    model = quantize(weights, 3.0, effort="fast", plan=plan)
    for name, coded in model.layers.items():
        assert plan.choices[name].codec == coded.codec


def test_unknown_efforts_are_refused(weights):
    with pytest.raises(VQError, match="effort"):
        quantize(weights, 3.0, effort="heroic")


def test_float8_weights_are_coded_as_half(weights):
    weights.tensors = {k: t.to(torch.float8_e4m3fn) for k, t in weights.tensors.items()}
    model = quantize(weights, 3.0, effort="fast")
    assert {w.dtype for w in model.layers.values()} == {torch.float16}
    assert codecs.names() == ["additive", "int8", "trellis"]
