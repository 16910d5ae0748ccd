"""The Triton kernels: in Triton's interpreter, and compiled for graphics cards that are not here."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compile_check
from benchmarks.compile_check import Spec

pytest.importorskip("triton", reason="Triton is not installed: its kernels are NOT TESTED here")

CHECKOUT = Path(__file__).resolve().parents[2]


def test_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/kernels/interpreted.py"],
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
    usual = [Spec(3, "64", "fp16"), Spec(4, "no rotation", "bf16"), Spec(0, "", "fp32")]
    compiled = compile_check.compile_for(target, usual)
    assert [c.name for c in compiled] == [spec.name for spec in usual]
    assert all(c.fits for c in compiled), compiled


def test_what_spills_or_overflows_does_not_fit():
    fits = compile_check.Compiled("cuda:86", "", 255, spilled=0, shared=101376, seconds=0)
    assert fits.fits
    assert not replace(fits, spilled=4).fits
    assert not replace(fits, shared=101377).fits
