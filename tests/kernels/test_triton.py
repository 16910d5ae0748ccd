"""The Triton kernels: in Triton's interpreter, and compiled for graphics cards that are not here."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import compile_check
from benchmarks.compile_check import Spec

pytest.importorskip("triton", reason="Triton is not installed: its kernels are NOT TESTED here")

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "file",
    ["interpreted.py", "interpreted_batch.py", "interpreted_trellis.py", "interpreted_viterbi.py"],
)
def test_in_the_interpreter(file):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"tests/kernels/{file}"],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("target", compile_check.SHARED_BYTES)
def test_no_target_spills(target):
    usual = [
        Spec("additive", 3, "64"),
        Spec("additive", 4, "unrotated", "bf16"),
        Spec("additive_batch", 3, "64", "fp32", sums_are_bytes=True),
        Spec("additive_int8", 3, "", "i8"),
        Spec("trellis", 3, "64", "fp32"),
        Spec("trellis_batch", 3, "unrotated"),
        Spec("trellis_int8", 5, "", "i8"),
        Spec("int8", 0, "", "fp32"),
        Spec("forward", 3, "", "fp32"),
        Spec("trace", 3, "", "i32"),
    ]
    compiled = compile_check.compile_for(target, usual)
    assert [c.name for c in compiled] == [spec.name for spec in usual]
    assert all(c.fits for c in compiled), compiled
    if target.startswith("cuda"):
        assert all(2 < c.instructions < 60 for c in compiled[:-2]), compiled


def test_a_spill_is_found_and_counted(capsys):
    starved = Spec("additive", 1, "128", most_registers=32)
    (compiled,) = compile_check.compile_for("cuda:86", [starved])
    assert compiled.spilled > 0
    assert compile_check.show("cuda:86", [starved]) == 1
    assert "too much" in capsys.readouterr().out


def test_a_spill_is_found_in_the_metadata_of_amd():
    metadata = ".vgpr_count: 256\n.vgpr_spill_count: 3\n.sgpr_spill_count: 1\n"
    assert compile_check._amd(SimpleNamespace(asm={"amdgcn": metadata})) == (256, 16, None)


def test_what_spills_or_overflows_does_not_fit():
    fits = compile_check.Compiled("cuda:86", "", 255, spilled=0, shared=101376, seconds=0)
    assert fits.fits
    assert not replace(fits, spilled=4).fits
    assert not replace(fits, shared=101377).fits


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_table_ends_with_status_1_if_something_is_wrong(monkeypatch, wrong):
    monkeypatch.setattr(sys, "argv", ["compile_check", "--targets", "cuda:86"])
    monkeypatch.setattr(compile_check, "show", lambda *_: wrong)
    assert compile_check.main() == wrong


def test_kernels_are_compiled_for_every_number_of_codebooks_and_type():
    wanted = list(compile_check.specs())
    assert {s.books for s in wanted if s.kernel == "additive_int8"} == set(range(1, 7))
    assert {s.books for s in wanted if s.kernel == "trellis"} == {2, 3, 4, 5}
    assert {s.run for s in wanted if s.kernel == "trellis"} == set(compile_check.RUNS)
    assert {s.dtype for s in wanted if s.kernel == "trellis"} == {"fp16", "bf16", "fp32"}
    assert {s.books for s in wanted if s.kernel == "trellis_int8"} == {2, 3, 4, 5}
    assert {s.run for s in wanted if s.kernel == "trellis_batch"} == set(compile_check.RUNS)
    searched = {(s.books, s.window) for s in wanted if s.kernel == "forward"}
    assert searched == {(bits, window) for bits in (2, 3, 4, 5) for window in (10, 12)}
    assert {s.dtype for s in wanted if s.kernel == "additive"} == {"fp16", "bf16", "fp32"}
    assert {s.run for s in wanted if s.kernel == "additive_batch"} == set(compile_check.RUNS)
    assert {s.sums_are_bytes for s in wanted if s.run == "128"} == {True, False}
