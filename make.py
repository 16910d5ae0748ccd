"""The project's jobs, each in an environment that it makes itself: ``python make.py JOB [ARGS]``.

    demo    quantize the shipped model, sample from it, and write pictures and a table
    test    lint, type-check and all tests; those in a real ComfyUI in each version that is found, beside
            each other as the processor has cores (--at-once N: so many suites)
    slow    the tests that take minutes
    python  Python in the environment of the ComfyUI that is found, for benchmarks: -m benchmarks.X
    check   lint and type-check
    format  reformat the code

Environments lie in .venv (the package by itself) and .venv-host-VERSION (what the ComfyUI of that
version requires), beside this file. Nothing is installed anywhere else. ComfyUI is found through the
environment variable COMFYUI_PATH, around this folder, or in ~/comfy: ComfyUI first, then the other
folders, the newest version first. COMFYUI_PATH may name several, separated as in PATH;
COMFYUI_PATH=none means that there is none. Demo and python use the first. Only the standard
library is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from comfy_vq.errors import VQError
from comfy_vq.hosts.locate import VARIABLE, choose, comfyui_version, find_all, find_comfyui
from tests.suites import Suite, run_suites

ROOT = Path(__file__).resolve().parent
SHIMS = ROOT / "tests" / "host" / "shims"
HOST_TESTS = "tests/host"
NO_TESTS_COLLECTED = 5  # pytest's exit status

TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"  # the release that belongs to this torch
TOOLS = ("ruff==0.17.6", "basedpyright==1.40.2", "pytest>=8", "setuptools>=77")
EXTRAS = ("gguf", "matplotlib")  # of requirements.txt
# For tests of its kernels, which need no graphics card. Users have the one that came with their torch.
TRITON = "triton==3.7.1; sys_platform == 'linux' and platform_machine == 'x86_64'"
RUNS_WITH = ("numpy", "safetensors", "tqdm", "diffusers", "pillow", "kornia", "scipy", *EXTRAS)
PACKAGE = (TORCH, TRITON, *RUNS_WITH)
# ComfyUI names these, but which build fits beside torch is chosen here.
TORCH_FAMILY = ("torch", "torchvision", "torchaudio")


Steps = dict[str, int]  # exit status of each step of a job, by name


class JobError(Exception):
    """A job cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what belongs into it: a list of requirements for each pip run."""

    folder: Path
    installs: tuple[tuple[str, ...], ...]
    pythonpath: str = ""

    @property
    def python(self) -> Path:
        inside = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
        return self.folder.joinpath(*inside)

    def ensure(self) -> None:
        """Makes it, or brings it up to date if the requirements have changed since.

        The stamp is written last: an environment without one was interrupted and is made anew.
        """
        stamp = self.folder / ".complete"
        wanted = hashlib.sha256(repr((sys.version_info[:2], self.installs)).encode()).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        print(f"-- {self.folder.name}: installing; this takes minutes, once", flush=True)
        started = time.monotonic()
        fresh = not stamp.is_file() or not self.python.is_file()
        stamp.unlink(missing_ok=True)
        if fresh:
            try:
                venv.create(self.folder, clear=True, with_pip=True)
            except subprocess.CalledProcessError as error:
                raise JobError(
                    f"{sys.executable} cannot make virtual environments ({error}); "
                    f"install its venv module, such as the package python3-venv"
                ) from error
        for requirements in self.installs:
            self._pip_install(requirements)
        stamp.write_text(wanted)
        print(f"-- {self.folder.name}: ready after {time.monotonic() - started:.0f} s", flush=True)

    def _pip_install(self, requirements: tuple[str, ...]) -> None:
        command = [self.python, "-m", "pip", "install", "--disable-pip-version-check"]
        command.append("--no-compile")  # which Python does for what it imports, a small part of it
        done = subprocess.run(
            [*command, *requirements],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._variables(),
        )
        if done.returncode != 0:
            raise JobError(
                f"pip could not install {' '.join(requirements)} into {self.folder}:\n"
                f"{done.stdout[-4000:]}"
            )

    def run(self, *arguments: str | Path, **variables: str) -> int:
        """Runs this environment's Python in the checkout and returns its exit status."""
        environment = {**self._variables(), **variables}
        return subprocess.run(
            [self.python, *arguments], check=False, cwd=ROOT, env=environment
        ).returncode

    def suite(self, label: str, *arguments: str, **variables: str) -> Suite:
        """Pytest in this environment and the checkout, with a cache of its own."""
        own_cache = ("-o", f"cache_dir=.pytest_cache/{self.folder.name}")
        command = (self.python, "-m", "pytest", *own_cache, *arguments)
        return Suite(label, command, ROOT, {**self._variables(), **variables})

    def _variables(self) -> dict[str, str]:
        """The caller's environment variables without those that lead Python elsewhere."""
        elsewhere = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
        if self.pythonpath:
            kept["PYTHONPATH"] = self.pythonpath
        return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}


def own_environment() -> Environment:
    """For the package by itself, without ComfyUI and without torchvision."""
    return Environment(ROOT / ".venv", ((*PACKAGE, *TOOLS),))


def host_environment(comfyui: Path) -> Environment:
    """For a ComfyUI and the package in it, from that ComfyUI's own requirements."""
    lines = (comfyui / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.split("#")[0].strip() for line in lines]
    required = [
        line
        for line in required
        if line and re.split(r"[^\w.-]", line)[0].lower() not in TORCH_FAMILY
    ]
    return Environment(
        ROOT / f".venv-host-{comfyui_version(comfyui)}",
        ((TORCH, *required, *EXTRAS, "pytest>=8"), ("--no-deps", TORCHVISION)),
        # The shims act only where the real torchvision and torchaudio do not import.
        pythonpath=str(SHIMS),
    )


def test(arguments: list[str], markers: str = "not slow", at_once: int = 0) -> Steps:
    """Runs the tests, those in a real ComfyUI once for each version that is found.

    In others than the first, tests that are marked ``one_host`` are left out.

    Args:
        arguments: for pytest.
        at_once: suites that run beside each other; 0 for as many as there are cores.
    """
    hosts, left_out = choose(find_all())
    own = own_environment()
    environments = {version: host_environment(path) for version, path in hosts.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # pip unpacks with one core
        list(pool.map(Environment.ensure, (own, *environments.values())))
    if not hosts and not left_out:  # the folder of host tests skips itself, loudly
        return run_suites([own.suite("tests", "-m", markers, *arguments, **{VARIABLE: "none"})], 1)
    count = 1 + len(hosts)
    at_once = min(count, at_once or os.cpu_count() or 1)
    shared = _shared_between(at_once)
    suites = []  # the longest first
    for version, environment in environments.items():
        chosen = f"({markers}) and not one_host" if suites else markers
        variables = {VARIABLE: str(hosts[version]), **shared}
        label = f"tests in ComfyUI {version}"
        suites.append(environment.suite(label, "-m", chosen, *arguments, HOST_TESTS, **variables))
    alone = ("-m", markers, *arguments, f"--ignore={HOST_TESTS}")
    suites.append(own.suite("tests", *alone, **shared))
    steps = run_suites(suites, at_once)
    tested = f"tested in ComfyUI {', '.join(hosts)}" if hosts else "NOT TESTED in a real ComfyUI"
    print(f"-- {tested}", flush=True)
    for path, reason in left_out.items():
        print(f"-- not tested in {path}: {reason}", flush=True)
    return steps


def _shared_between(at_once: int) -> dict[str, str]:
    """Variables by which so many processes share the cores.

    Threads that spin while they wait for others take the cores from other processes' threads: two
    processes with two of them each on two cores are ten times as slow.
    """
    if at_once == 1:
        return {}
    threads = max(1, (os.cpu_count() or 1) // at_once)
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def check() -> Steps:
    """Lint, formatting and types."""
    own = own_environment()
    own.ensure()
    return {
        "lint": own.run("-m", "ruff", "check", "--quiet", "."),
        "formatting": own.run("-m", "ruff", "format", "--quiet", "--check", "."),
        "types": own.run("-m", "basedpyright", "--level", "error"),
    }


def reformat() -> Steps:
    own = own_environment()
    own.ensure()
    return {
        "lint": own.run("-m", "ruff", "check", "--quiet", "--fix", "."),
        "formatting": own.run("-m", "ruff", "format", "--quiet", "."),
    }


def demo(arguments: list[str]) -> Steps:
    """Runs the demo in ComfyUI where one is found, else in diffusers."""
    return {"demo": _run("-m", "comfy_vq", "demo", *(arguments or ("--out", "demo_out")))}


def _run(*command: str) -> int:
    """Runs Python in the environment of the ComfyUI that is found, or in the package's own.

    If this Python already runs that ComfyUI, with its build of torch for the graphics card here, it
    is used as it is.
    """
    comfyui = find_comfyui()
    environment = own_environment() if comfyui is None else host_environment(comfyui)
    variables = {VARIABLE: str(comfyui or "none")}
    if comfyui is not None and _runs_comfyui():
        done = subprocess.run(
            [sys.executable, *command], check=False, cwd=ROOT, env={**os.environ, **variables}
        )
        return done.returncode
    environment.ensure()
    return environment.run(*command, **variables)


def _runs_comfyui() -> bool:
    """Whether the Python that runs this script has what ComfyUI imports."""
    needed = ("torch", "torchvision", "torchaudio", "comfy_kitchen", "transformers", "torchsde")
    return all(importlib.util.find_spec(name) is not None for name in needed)


def run_job(job: str, arguments: list[str], at_once: int = 0) -> Steps:
    if job == "demo":
        return demo(arguments)
    if job == "test":
        return {**check(), **test(arguments, at_once=at_once)}
    if job == "python":
        return {"python": _run(*arguments)}
    if job == "slow":
        return test(arguments, markers="slow", at_once=at_once)
    return check() if job == "check" else reformat()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=("demo", "test", "slow", "python", "check", "format"))
    parser.add_argument("--at-once", type=int, default=0, help=argparse.SUPPRESS)
    options, arguments = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, too
    try:
        steps = run_job(options.job, arguments, options.at_once)
    except KeyboardInterrupt:
        print("make.py: interrupted", file=sys.stderr)
        return 130
    except (JobError, VQError) as error:
        print(f"make.py: {error}", file=sys.stderr)
        return 2
    failed = [name for name, status in steps.items() if status not in (0, NO_TESTS_COLLECTED)]
    if failed:
        print(f"make.py: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.version_info < (3, 10):  # noqa: UP036 (this is who tells the users of older ones)
        sys.exit("make.py: Python 3.10 or newer is needed")
    sys.exit(main())
