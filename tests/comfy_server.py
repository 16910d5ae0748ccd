"""A real ComfyUI server for tests: ``main.py --cpu`` in a folder of its own, driven over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
TESTING_NODES = CHECKOUT / "tests" / "host" / "testing_nodes"
MODEL_FOLDERS = ("checkpoints", "diffusion_models", "vae", "vae_approx", "loras", "vq")


class PromptRefused(Exception):
    """The server answered a prompt with HTTP 400; ``.answer`` holds its JSON (``node_errors``)."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer, indent=1))
        self.answer = answer


class ComfyServer:
    """A running server.

    ``base`` is its base directory: put files under ``models("diffusion_models")`` and find results
    under ``output``. A prompt is a dict in API format, ``{"1": {"class_type": ..., "inputs": ...}}``.
    The extension's folder has no space in its name: ComfyUI's web server would then not find its
    static files, whatever the extension. ``options`` are further ones of ComfyUI's command line.
    """

    def __init__(
        self,
        comfyui: Path,
        base: Path,
        extension_folder: str = "my.vq-nodes",
        options: Sequence[str] = (),
    ) -> None:
        self.base = base
        self.output = base / "output"
        self.extension = base / "custom_nodes" / extension_folder
        install_extension(self.extension)
        shutil.copytree(TESTING_NODES, base / "custom_nodes" / "testing_nodes")
        for kind in MODEL_FOLDERS:
            self.models(kind).mkdir(parents=True, exist_ok=True)

        self._claim, port = _claimed_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log_path = base / "server.log"
        command = [sys.executable, str(comfyui / "main.py"), "--cpu", "--listen", "127.0.0.1"]
        command += ["--port", str(port), "--base-directory", str(base), "--disable-api-nodes"]
        command += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        command += options
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=base, env=_clean_environment()
            )

    def wait_until_up(self, seconds: float = 180) -> ComfyServer:
        """Returns once it answers; fails with the log if it ends or takes too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                self.get("/system_stats")
                return self
            except OSError:
                time.sleep(0.3)
        self.stop()
        raise AssertionError(f"the ComfyUI server did not come up:\n{self.log()[-8000:]}")

    def stop(self) -> None:
        self._claim.close()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def alive(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for_log(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """The first match of a regular expression in the log, waiting for it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = re.search(pattern, self.log())
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"no {pattern!r} in the server's log:\n{self.log()[-8000:]}")

    def models(self, kind: str) -> Path:
        """The folder for models of a kind, such as ``diffusion_models``."""
        return self.base / "models" / kind

    def get_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + urllib.parse.quote(path, safe="/?&=%")) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self.get_bytes(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data=data, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """What the server says about all its nodes, or about one."""
        if node is None:
            return self.get("/object_info")
        return self.get(f"/object_info/{node}")[node]

    def post_prompt(self, prompt: dict[str, Any], client: str | None = None) -> str:
        """Queues a prompt in API format and returns its id.

        Args:
            client: the ``clientId`` of the websocket that is told about it.

        Raises:
            PromptRefused: the server found it invalid.
        """
        body = {"prompt": prompt} if client is None else {"prompt": prompt, "client_id": client}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(error.read())) from error

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The record of a finished prompt, or None: ``status``, ``outputs`` by node, ``meta``."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, seconds: float = 300) -> dict[str, Any]:
        """The record of a prompt once it has ended, well or not: see ``error_of`` and ``messages``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            record = self.history(prompt_id)
            if record is not None:
                return record
            if not self.alive():
                raise AssertionError(f"the ComfyUI server ended:\n{self.log()[-8000:]}")
            time.sleep(0.1)
        raise AssertionError(f"prompt still running after {seconds} s:\n{self.log()[-8000:]}")

    def run(self, prompt: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
        """Posts a prompt, waits, checks that it ended well and returns its record."""
        record = self.wait(self.post_prompt(prompt), seconds)
        assert record["status"]["status_str"] == "success", error_of(record) or record["status"]
        return record

    def complaint(self, prompt: dict[str, Any], seconds: float = 300) -> tuple[str, bool]:
        """What the user is told about a prompt that fails, and whether it was refused at once."""
        try:
            record = self.wait(self.post_prompt(prompt), seconds)
        except PromptRefused as refusal:
            nodes = refusal.answer["node_errors"].values()
            errors = [error for node in nodes for error in node["errors"]]
            return "; ".join(f"{error['message']}: {error['details']}" for error in errors), True
        return error_of(record) or record["status"]["status_str"], False

    def interrupt(self) -> None:
        """Asks the server to stop the running prompt; ``wait`` then gives its record."""
        self.post("/interrupt", {})


def messages(record: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """A record's messages of a kind (``execution_start``, ``execution_interrupted``, ...); each has
    a ``timestamp`` in milliseconds since 1970."""
    return [data for name, data in record["status"]["messages"] if name == kind]


def error_of(record: dict[str, Any]) -> str | None:
    """The message of the node that failed, as the user sees it."""
    errors = messages(record, "execution_error")
    return f"{errors[0]['node_type']}: {errors[0]['exception_message']}" if errors else None


def install_extension(folder: Path) -> None:
    """Puts the extension where ComfyUI looks, with the files that a user gets and no others."""
    hidden = (".*", "__pycache__", "build", "*.egg-info")
    # The registry packs what git tracks, without what .comfyignore names.
    unpublished = tuple(
        line.strip().strip("/")
        for file in (".comfyignore", ".gitignore")
        for line in (CHECKOUT / file).read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    )

    def left_out(directory: str, names: list[str]) -> set[str]:
        ignored = shutil.ignore_patterns(*hidden)(directory, names)
        if Path(directory) == CHECKOUT:
            ignored |= shutil.ignore_patterns(*unpublished)(directory, names)
        return ignored

    shutil.copytree(CHECKOUT, folder, ignore=left_out)


def _clean_environment() -> dict[str, str]:
    """Without what would make the server import the checkout instead of its copy."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return environment


def _claimed_port() -> tuple[socket.socket, int]:
    """A port that no other server is given as long as the socket is open, and the socket.

    Two servers that start at once would else find the same port free. The socket does not listen, and
    what binds with SO_REUSEADDR, as servers do, gets the port all the same.
    """
    claim = socket.socket()
    claim.bind(("127.0.0.1", 0))
    claim.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return claim, claim.getsockname()[1]
