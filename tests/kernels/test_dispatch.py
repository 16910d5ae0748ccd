"""Which implementation runs, why the others do not, and that none of that reaches the caller."""

import logging
from types import SimpleNamespace

import pytest
import torch

from comfy_vq import kernels
from comfy_vq.kernels import dispatch, triton_ready

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
CODES = torch.arange(-64, 64, dtype=torch.int8).reshape(4, 32)
SCALES = torch.tensor([1, 0.5, 2, 0], dtype=torch.float16)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(dispatch, "_chosen", {})
    monkeypatch.setattr(triton_ready, "_broken", {})


@pytest.fixture
def launches(monkeypatch):
    """A Triton whose every launch fails; the list of launches."""
    seen = []

    def launch(*arguments, **_):
        seen.append(arguments)
        raise RuntimeError("no kernel image\nand much more")

    module = SimpleNamespace(decode_int8=launch, decode_additive=launch)
    monkeypatch.setattr(triton_ready, "kernels", lambda: module)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return seen


def decode(dtype=torch.float32):
    return kernels.decode(kernels.Int8(CODES, SCALES), dtype)


def expected():
    return CODES.float() * (SCALES.float() / 128)[:, None]


def test_a_cpu_has_its_own(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernels.explain("decode_additive", CPU) == (
        "decode_additive on cpu: cpu; "
        "not triton: needs a device cuda, or cpu with TRITON_INTERPRET=1, found cpu"
    )


@pytest.mark.parametrize("operation", ["decode_additive", "decode_int8"])
def test_old_cards_are_named_by_capability(monkeypatch, operation):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    line = kernels.explain(operation, CARD)
    assert line.startswith(
        f"{operation} on cuda:0: eager; not triton: needs compute capability 8.0"
    )
    assert "found 7.5" in line


def test_unknown_amd_cards_are_named(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    card = SimpleNamespace(gcnArchName="gfx1030:sramecc+")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert kernels.explain("decode_int8", CARD).endswith("gfx1100 or gfx1201, found gfx1030")


def test_a_missing_triton_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton_ready, "kernels", lambda: "ModuleNotFoundError: no triton")
    line = kernels.explain("decode_additive", CARD)
    assert "eager; not triton: needs a Triton that works, found ModuleNotFoundError" in line


def test_a_failed_launch_is_tried_once_and_logged_once(launches, caplog):
    with caplog.at_level(logging.WARNING):
        for dtype in (torch.float32, torch.float16, torch.float32):
            assert torch.equal(decode(dtype), expected().to(dtype))
    assert len(launches) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "VQ: no Triton on cpu, eager PyTorch decodes: RuntimeError: no kernel image"
    )


def test_wrong_weights_are_no_weights(monkeypatch, launches):
    wrong = SimpleNamespace(decode_int8=lambda codes, scales, dtype, **_: codes.to(dtype))
    monkeypatch.setattr(triton_ready, "kernels", lambda: wrong)
    assert torch.equal(decode(), expected())
    assert "wrong weights in" in kernels.explain("decode_int8", CPU)


def test_want_of_memory_is_the_host_s_to_handle(monkeypatch, launches):
    def launch(*_, **__):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(
        triton_ready, "kernels", lambda: SimpleNamespace(decode_int8=launch, decode_additive=launch)
    )
    with pytest.raises(torch.OutOfMemoryError):
        decode()
    assert not triton_ready._broken


def test_nothing_is_tried_while_a_graph_is_recorded(monkeypatch, launches):
    monkeypatch.setattr(dispatch, "is_capturing", lambda device: True)
    assert torch.equal(decode(), expected())
    assert not launches and not dispatch._chosen


def test_more_weights_than_indices_count_are_refused():
    case = dispatch.Case(CARD, torch.float16, 3, 128, index_bits=64)
    refusals = [c.refusal(case) for c in triton_ready.ADDITIVE if "index_bits" in str(c)]
    assert refusals == ["64"]
