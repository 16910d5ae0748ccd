"""The one command for a graphics card: honest about what failed, ran out of time or was left out."""

import sys
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Part


def python(code: str, seconds: float = 30, **options) -> Part:
    return Part("a part", ("-c", code), seconds, **options)


def test_what_passes():
    outcome = gpu.run(python("print('a table')"), left=60)
    assert (outcome.status, outcome.output) == ("passed", "a table\n")


def test_what_fails_keeps_what_it_said():
    outcome = gpu.run(python("print('half a table'); raise SystemExit('broken')"), left=60)
    assert outcome.status == "FAILED with status 1"
    assert outcome.output == "half a table\nbroken\n"


def test_what_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0)
    alive = tmp_path / "alive"
    child = f"import time; time.sleep(3); open({str(alive)!r}, 'w')"
    code = (
        f"import subprocess, sys; print('begun'); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    outcome = gpu.run(python(code, seconds=1.5), left=60)
    assert outcome.status.startswith("OUT OF TIME after 2 s") and outcome.output == "begun\n"
    time.sleep(2)
    assert not alive.exists()


def test_what_has_no_time_left_is_not_begun():
    assert gpu.run(python("print(1)"), left=2).status == "not run: out of time"


def test_what_is_skipped_says_why():
    outcome = gpu.run(python("print(1)", skipped="no ComfyUI found"), left=60)
    assert "**skipped: no ComfyUI found**" in str(outcome)


def test_variables_reach_the_part():
    part = python("import os; print(os.environ['ON'])", variables={"ON": "cpu"})
    assert gpu.run(part, left=60).output == "cpu\n"


@pytest.fixture
def short(monkeypatch, tmp_path):
    """The script on two parts; how it ends, and its report."""

    def main(*parts: Part) -> tuple[int, str]:
        monkeypatch.setattr(gpu, "parts", lambda *_: iter(parts))
        out = tmp_path / "gpu.md"
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(out)])
        return gpu.main(), out.read_text()

    return main


def test_one_failure_does_not_stop_the_rest(short):
    status, report = short(python("raise SystemExit(3)"), python("print('a table')"))
    assert status == 1
    assert "* a part: FAILED with status 3\n* a part: passed\n" in report
    assert "a table" in report


def test_skipping_is_no_success(short):
    assert short(python("print(1)"))[0] == 0
    assert short(python("print(1)"), python("", skipped="why"))[0] == 1


def test_without_a_comfyui_everything_else_is_run(monkeypatch, tmp_path):
    monkeypatch.setenv("COMFYUI_PATH", "none")
    parts = list(gpu.parts("cuda", quick=False, folder=tmp_path))
    in_comfyui = {"benchmarks.step", "benchmarks.lora"}
    assert all(bool(p.skipped) == (p.command[1] in in_comfyui) for p in parts)
    assert {"pytest", "benchmarks.kernels", "benchmarks.encoding", *in_comfyui} <= {
        p.command[1] for p in parts
    }


def test_a_missing_card_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "gpu.md")])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "torch sees no graphics card" in capsys.readouterr().err
