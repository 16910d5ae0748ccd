"""Which ComfyUIs the jobs of make.py use, and that they say so; nothing is installed or run here."""

import os
import subprocess
from pathlib import Path

import pytest

import make
from comfy_vq.hosts.locate import VARIABLE


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    """Makes ComfyUIs of given versions, and names all of them in the environment variable."""

    def place(*versions: str) -> list[Path]:
        folders = [tmp_path / f"{number} {version}" for number, version in enumerate(versions)]
        for folder, version in zip(folders, versions, strict=True):
            (folder / "comfy").mkdir(parents=True)
            (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
            (folder / "requirements.txt").write_text("torch\ncomfy-kitchen==0.2.16\n")
        monkeypatch.setenv(VARIABLE, os.pathsep.join(map(str, folders)) or "none")
        return folders

    return place


@pytest.fixture
def ran(monkeypatch):
    """The processes that were started: environment's folder, the ComfyUI named, arguments."""
    processes: list[tuple[str, str | None, list[str]]] = []

    def run(command, *, env, **_):
        folder = Path(command[0]).parents[1].name
        processes.append((folder, env.get(VARIABLE), [str(part) for part in command[1:]]))
        return subprocess.CompletedProcess(command, 0)

    def run_suites(suites, at_once):
        for suite in suites:
            run(suite.command, env=suite.variables)
        return dict.fromkeys((suite.label for suite in suites), 0)

    monkeypatch.setattr(make.subprocess, "run", run)
    monkeypatch.setattr(make, "run_suites", run_suites)
    monkeypatch.setattr(make.Environment, "ensure", lambda environment: None)
    return processes


def markers(arguments: list[str]) -> str:
    return arguments[arguments.index("-m", 2) + 1]


def test_every_version_has_its_environment_and_its_run(hosts, ran, capsys):
    newer, older = hosts("0.29.0", "0.27.0")
    assert make.test([]) == {
        "tests in ComfyUI 0.29.0": 0,
        "tests in ComfyUI 0.27.0": 0,
        "tests": 0,
    }
    first, second, alone = ran
    assert alone[0] == ".venv" and "--ignore=tests/host" in alone[2]
    assert first[:2] == (".venv-host-0.29.0", str(newer))
    assert second[:2] == (".venv-host-0.27.0", str(older))
    assert "-- tested in ComfyUI 0.29.0, 0.27.0\n" in capsys.readouterr().out


def test_tests_for_one_host_run_in_the_first(hosts, ran):
    hosts("0.27.0", "0.29.0", "0.30.1")
    make.test([], markers="slow")
    expected = ["slow", "(slow) and not one_host", "(slow) and not one_host", "slow"]
    assert [markers(arguments) for _, _, arguments in ran] == expected


def test_what_is_left_out_is_said(hosts, ran, capsys):
    old, _, again = hosts("0.26.0", "0.29.0", "0.29.0")
    make.test([])
    assert [folder for folder, _, _ in ran] == [".venv-host-0.29.0", ".venv"]
    said = capsys.readouterr().out
    assert f"-- not tested in {old}: ComfyUI 0.26.0 is too old: 0.27.0 or newer is needed\n" in said
    assert f"-- not tested in {again}: ComfyUI 0.29.0, as in " in said


def test_old_hosts_alone_are_no_success_in_silence(hosts, ran, capsys):
    hosts("0.26.0")
    make.test([])
    assert [folder for folder, _, _ in ran] == [".venv"]
    assert "-- NOT TESTED in a real ComfyUI\n" in capsys.readouterr().out


def test_without_a_host_its_tests_skip_themselves(hosts, ran):
    hosts()
    make.test([])
    ((folder, variable, arguments),) = ran
    assert (folder, variable) == (".venv", "none")
    assert not any(argument.startswith("--ignore") for argument in arguments)


@pytest.mark.parametrize(
    ("cores", "asked", "at_once", "threads"),
    [(2, 0, 2, "1"), (16, 0, 3, "5"), (16, 2, 2, "8"), (1, 0, 1, None), (8, 1, 1, None)],
)
def test_suites_share_the_cores(hosts, monkeypatch, cores, asked, at_once, threads):
    hosts("0.29.0", "0.27.0")
    started = []
    monkeypatch.setattr(make, "run_suites", lambda *arguments: started.append(arguments) or {})
    monkeypatch.setattr(make.Environment, "ensure", lambda environment: None)
    monkeypatch.setattr(make.os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    make.test([], at_once=asked)
    ((suites, found),) = started
    assert found == at_once
    assert [suite.variables.get("OMP_NUM_THREADS") for suite in suites] == [threads] * 3
    caches = {suite.command[suite.command.index("-o") + 1] for suite in suites}
    assert len(caches) == 3


def test_demo_and_python_use_the_first_that_can_run_it(hosts, ran, monkeypatch):
    _, usable, _ = hosts("0.26.0", "0.27.0", "0.29.0")
    monkeypatch.setattr(make, "_runs_comfyui", lambda: False)
    make.run_job("python", ["-m", "benchmarks.soak"])
    assert ran == [(".venv-host-0.27.0", str(usable), ["-m", "benchmarks.soak"])]


def test_what_a_host_requires_is_installed_but_for_torch(hosts):
    (folder,) = hosts("0.29.0")
    (requirements, _) = make.host_environment(folder).installs
    assert "comfy-kitchen==0.2.16" in requirements
    assert [name for name in requirements if name.startswith("torch")] == [make.TORCH]
