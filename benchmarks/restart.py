"""The same graph again after a restart of ComfyUI: seconds with and without the cache.

    python -m benchmarks.restart training/demo_model/unet.safetensors --effort balanced

Starts a real ComfyUI server three times on one base directory and posts UNETLoader -> VQ Quantize
Model each time: first with nothing in the cache, then with what the first run left there, then
with the node's cache switched off. Seconds are those of the whole prompt, loading included, by the
server's own clock. Needs the environment of a ComfyUI, found as the tests find it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.sdxl_load import comfyui_folder
from comfy_vq.hosts.locate import comfyui_version
from tests.comfy_server import ComfyServer, messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--bits", default="3.0")
    parser.add_argument("--effort", default="balanced")
    args = parser.parse_args()
    print(f"ComfyUI {comfyui_version(comfyui_folder())}, {args.model.name}, effort {args.effort}")
    print("| run | seconds | report |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for run, cache in (("first", True), ("restarted", True), ("without the cache", False)):
            shutil.rmtree(base / "custom_nodes", ignore_errors=True)
            server = ComfyServer(comfyui_folder(), base).wait_until_up()
            try:
                link = server.models("diffusion_models") / args.model.name
                if not link.exists():
                    link.symlink_to(args.model.resolve())
                seconds, report = _run(server, args, cache)
            finally:
                server.stop()
            print(f"| {run} | {seconds:.1f} | {report} |", flush=True)


def _run(server: ComfyServer, args: argparse.Namespace, cache: bool) -> tuple[float, str]:
    loader = {"unet_name": args.model.name, "weight_dtype": "default"}
    settings = {"bits": args.bits, "effort": args.effort, "exclude": "", "cache": cache}
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": loader},
        "2": {"class_type": "VQQuantizeModel", "inputs": {"model": ["1", 0], **settings}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 1]}},
    }
    record = server.run(prompt, seconds=7200)
    (start,) = messages(record, "execution_start")
    (end,) = messages(record, "execution_success")
    report = record["outputs"]["3"]["text"][0].splitlines()[0].split("; ")[-1]
    return (end["timestamp"] - start["timestamp"]) / 1000, report


if __name__ == "__main__":
    main()
