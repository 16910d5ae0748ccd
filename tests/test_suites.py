"""Suites beside each other: what they print, how they end, and that nothing outlives them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comfy_server import _claimed_port
from suites import Suite, run_suites

CHECKOUT = Path(__file__).resolve().parents[1]


def suite(label, code, *arguments):
    command = (sys.executable, "-uc", code, *map(str, arguments))
    return Suite(label, command, CHECKOUT, dict(os.environ))


MEETS = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
end = time.monotonic() + 60
while not other.exists():
    assert time.monotonic() < end
    time.sleep(0.05)
print(f"{mine.name} begins", flush=True)
time.sleep(0.3)
print(f"{mine.name} ends")
"""


def test_they_run_at_the_same_time_and_are_printed_one_after_the_other(tmp_path, capfd):
    a, b = tmp_path / "a", tmp_path / "b"
    assert run_suites([suite("A", MEETS, a, b), suite("B", MEETS, b, a)], 2) == {"A": 0, "B": 0}
    printed = capfd.readouterr().out
    assert "a begins\na ends\n" in printed and "b begins\nb ends\n" in printed
    assert "-- A: status 0 after" in printed


def test_no_more_than_asked_for_run_at_a_time(tmp_path):
    alone = "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); p.mkdir(); time.sleep(0.3); p.rmdir()"
    place = tmp_path / "one at a time"
    found = run_suites([suite(label, alone, place) for label in "ABC"], 1)
    assert found == {"A": 0, "B": 0, "C": 0}


def test_each_has_its_status_in_the_order_given(capfd):
    suites = [suite("late", "import time; time.sleep(0.5)"), suite("bad", "raise SystemExit(3)")]
    assert list(run_suites(suites, 2).items()) == [("late", 0), ("bad", 3)]


def test_errors_are_printed_with_the_rest(capfd):
    code = "import sys; print('first'); print('wrong', file=sys.stderr); print('last')"
    run_suites([suite("A", code), suite("B", "")], 2)
    assert "first\nwrong\nlast\n" in capfd.readouterr().out


RUNNER = """
import signal, sys
sys.path.insert(0, "tests")
from suites import run_suites
from test_suites import STOPS, STUBBORN, suite
import suites
suites._PATIENCE = 3.0
signal.signal(signal.SIGTERM, signal.default_int_handler)
codes = {"stops": STOPS, "stubborn": STUBBORN}
run_suites([suite(name, codes[name], sys.argv[1]) for name in sys.argv[2:]], 2)
"""

STOPS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "stops").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    (folder / "stopped").touch()
    print("cleaned up")
"""

STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
late = f"import time, pathlib; time.sleep(8); pathlib.Path({str(folder)!r}, 'outlived').touch()"
child = subprocess.Popen([sys.executable, "-c", late])
(folder / "stubborn").touch()
time.sleep(60)
"""


@pytest.fixture
def interruptible():
    """Processes started in the background of a script ignore SIGINT, and so would their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_lets_each_clean_up_and_leaves_none(tmp_path, number):
    command = [sys.executable, "-c", RUNNER, tmp_path, "stops", "stubborn"]
    running = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in ("stops", "stubborn")):
        assert time.monotonic() < end and running.poll() is None
        time.sleep(0.05)
    begun = time.monotonic()
    running.send_signal(number)
    output, _ = running.communicate(timeout=40)
    assert running.returncode != 0
    assert (tmp_path / "stopped").exists() and "cleaned up" in output
    time.sleep(max(0.0, 9 - (time.monotonic() - begun)))
    assert not (tmp_path / "outlived").exists()


def test_a_claimed_port_is_for_one_server():
    claim, port = _claimed_port()

    async def serve():
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
        server.close()
        await server.wait_closed()

    try:
        with socket.socket() as other, pytest.raises(OSError):
            other.bind(("127.0.0.1", port))
        asyncio.run(serve())
    finally:
        claim.close()
