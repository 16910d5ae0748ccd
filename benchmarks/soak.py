"""Hundreds of prompts in a row against one ComfyUI server: pictures, faults, interruptions.

    python -m benchmarks.soak --prompts 200 [--seed 0] [--runs default cache-none dense] [--out F]

A real server on the CPU is driven over HTTP. Two VQ files and models quantized in the graph are
sampled with LoRAs of several kinds and strengths; in between come prompts with something wrong,
prompts that are interrupted while sampling or quantizing, and requests to unload everything. The
order follows from the seed. Every picture must have the bytes of its first rendering, every fault
must give its message, every interruption must stop the node that it is meant for, and the server's
memory must not grow (``soak_result.TOLERANCE``). Exit status 1: something of it is not so.

Each run has a server of its own. ``default`` is as users have it: the host keeps the results of
nodes that the last prompt used. In ``cache-none`` every node runs every time. ``dense`` has prompts
without VQ, for comparison: how much memory the host itself comes to hold. Needs the environment of
a ComfyUI, found as the tests find it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.sdxl_load import comfyui_folder
from benchmarks.soak_graphs import Picture, picture_graph
from benchmarks.soak_result import Soak, different, table
from benchmarks.soak_schedule import WITHOUT_VQ, Fault, Interruption, Mix, Step, schedule
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version
from tests.comfy_server import ComfyServer, error_of, messages

RUNS = {
    "default": ((), Mix()),
    "cache-none": (("--cache-none",), Mix()),
    "dense": ((), WITHOUT_VQ),
}
_CLIENT = "soak"
_SECONDS = 600.0
_INTO = 0.3
"""Seconds of a node's work before it is interrupted."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=["default"])
    parser.add_argument("--out", type=Path, help="where to write the table as well")
    args = parser.parse_args()
    comfyui = comfyui_folder()
    runs: dict[str, Soak] = {}
    for name in args.runs:
        options, mix = RUNS[name]
        steps, warm = schedule(args.prompts, args.seed, mix)
        with tempfile.TemporaryDirectory() as folder:
            server = ComfyServer(comfyui, Path(folder), options=options)
            try:
                boot(comfyui, cpu=True)
                from benchmarks.soak_files import write_files

                write_files(server.wait_until_up())
                runs[name] = soak(server, steps, warm, _say)
            finally:
                server.stop()
    problems = [f"{name}: {line}" for name, run in runs.items() for line in run.problems()]
    problems += [f"{name}: {line}" for name, run in runs.items() for line in run.leaks()]
    problems += different(runs)
    said = f"ComfyUI {comfyui_version(comfyui)}, torch {torch.__version__}, seed {args.seed}"
    listed = "".join(f"* {line}\n" for line in problems or ["nothing is wrong"])
    text = f"{said}\n\n{table(runs)}\n\n{listed}"
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 1 if problems else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def soak(
    server: ComfyServer, steps: Sequence[Step], warm: int, tell: Callable[[str], None]
) -> Soak:
    """Post all prompts of a schedule to a server that has the files of ``soak_files``."""
    found, process, began = Soak(warm), psutil.Process(server.process.pid), time.monotonic()
    for nonce, step in enumerate(steps):
        started = time.monotonic()
        if step.unload:
            server.post("/free", {"unload_models": True, "free_memory": True})
            found.unloads += 1
        _post(server, step, nonce, found)
        found.alive = server.alive()
        if not found.alive:
            break
        found.resident.append(process.memory_info().rss)
        if nonce + 1 in (warm, len(steps)):
            found.free.append(server.get("/system_stats")["system"]["ram_free"])
        seconds, size = time.monotonic() - started, found.resident[-1] / 1e6
        tell(
            f"{nonce + 1:4} {size:7.1f} MB {seconds:5.1f} s{' unloaded' * step.unload} {step.prompt}"
        )
    found.seconds = time.monotonic() - began
    return found


def _post(server: ComfyServer, step: Step, nonce: int, found: Soak) -> None:
    prompt = step.prompt
    if isinstance(prompt, Picture):
        record = server.wait(server.post_prompt(picture_graph(prompt, nonce)), _SECONDS)
        if record["status"]["status_str"] == "success":
            found.compare(prompt, _digest(server, record))
        else:
            found.answers.append(f"prompt {nonce}, {prompt}: {error_of(record)}")
    elif isinstance(prompt, Fault):
        found.faults[prompt.name] += 1
        answer, refused = server.complaint(prompt.graph(nonce), _SECONDS)
        expected = prompt.message.format(folder=server.models("vq"))
        if refused is not prompt.refused or expected not in answer or "\n" in answer.strip():
            found.answers.append(f"prompt {nonce}, {prompt.name}: {answer}")
    else:
        found.interrupted[prompt.node] += 1
        record = server.wait(asyncio.run(_interrupt(server, prompt, nonce)), _SECONDS)
        stopped = [message["node_id"] for message in messages(record, "execution_interrupted")]
        found.hits[prompt.node] += stopped == [prompt.node]
        if error_of(record) is not None:
            found.answers.append(f"prompt {nonce}, {prompt}: {error_of(record)}")


async def _interrupt(server: ComfyServer, interruption: Interruption, nonce: int) -> str:
    """Posts a prompt, and interrupts it soon after the node has begun; returns its id."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?clientId={_CLIENT}") as socket,
    ):
        graph = interruption.graph(nonce)
        prompt_id = server.post_prompt(graph, client=_CLIENT)
        while not _reached(await socket.receive(_SECONDS), interruption.node):
            pass
        await asyncio.sleep(_INTO)
        server.interrupt()
        return prompt_id


def _reached(message: Any, node: str) -> bool:
    """Whether a message of the server's says that a node is at work, or that the prompt has ended."""
    if message.type is not aiohttp.WSMsgType.TEXT:
        return message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
    told = json.loads(message.data)
    if told["type"] in ("execution_error", "execution_success"):
        return True
    return told["type"] == "progress" and told["data"]["node"] == node


def _digest(server: ComfyServer, record: dict[str, Any]) -> str:
    """The hash of what a prompt has saved, which is then deleted."""
    digest = hashlib.sha256()
    for node in sorted(record["outputs"]):
        for kind in ("latents", "images"):
            for saved in record["outputs"][node].get(kind, ()):
                path = server.output / saved["subfolder"] / saved["filename"]
                digest.update(_latent(path) if kind == "latents" else Image.open(path).tobytes())
                path.unlink()
    return digest.hexdigest()


def _latent(path: Path) -> bytes:
    tensor = load_file(path)["latent_tensor"]
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{path}: a latent that is not finite")
    return tensor.numpy().tobytes()


if __name__ == "__main__":
    sys.exit(main())
