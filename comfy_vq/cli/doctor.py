"""`doctor`: what is installed here, which kernels decode, and why the others do not."""

from __future__ import annotations

import argparse
import os
from importlib.metadata import PackageNotFoundError, version

import torch

from .. import __version__, cache, kernels
from ..errors import VQError
from ..hosts.locate import comfyui_version, find_comfyui, meets_floor


def add_to(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("doctor", help="show what is installed and which kernels decode")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    lines = [
        ("comfy-vq", __version__),
        ("torch", torch.__version__),
        ("triton", _installed("triton")),
        ("comfy-kitchen", _installed("comfy-kitchen")),
        ("ComfyUI", _comfyui()),
        ("cache", os.environ.get(cache.FOLDER, "").strip() or f"on, {cache.FOLDER} is not set"),
    ]
    for device in _devices():
        lines.append((str(device), _name(device)))
        for operation in kernels.OPERATIONS:
            lines.append(("", kernels.explain(operation, device)))
    for name, value in lines:
        print(f"{name:14}{value}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _comfyui() -> str:
    try:
        path = find_comfyui()
        if path is None:
            return "not found"
        found = comfyui_version(path)
    except VQError as error:
        return str(error)
    return f"{found} in {path}" + ("" if meets_floor(found) else ", too old for this extension")


def _devices() -> list[torch.device]:
    cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [torch.device("cpu"), *cards]


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads"
    found = torch.cuda.get_device_properties(device)
    return (
        f"{found.name}, {found.total_memory / 1e9:.1f} GB, capability {found.major}.{found.minor}"
    )
