"""Peak memory of a whole SDXL graph, stage by stage, in the real ComfyUI: dense against VQ.

    python -m benchmarks.workflow_memory sdxl-random.safetensors sdxl-random-fast-VQ3.0.safetensors

Two CLIPs and a VAE of SDXL's shapes with random weights are written beside the first file, once.
Each file is loaded in a process of its own: load the diffusion model, load the text encoders and
encode two prompts, sample, load the VAE and decode. Per stage, in GB: the largest resident set
within it, over that of a ComfyUI that has loaded nothing; and with a graphics card the largest sum
that torch has allocated there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.sdxl_checkpoint import random_tensor
from benchmarks.sdxl_load import comfyui_folder, memory
from comfy_vq import checkpoint
from comfy_vq.checkpoint import Stored, write_dense
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version

STAGES = ("load model", "text encode", "sample", "decode")
_VAE = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--pixels", type=int, default=256, help="height and width; 1024 is native")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--child", choices=("parts", "run"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    parts = [args.files[0].with_name(f"sdxl-{name}.safetensors") for name in ("l", "g", "vae")]
    if args.child == "parts":
        _write_parts(parts)
        return
    if args.child == "run":
        print(json.dumps(_run(args.files[-1], parts, args.pixels, args.steps)))
        return
    if not all(path.exists() for path in parts):
        _child("parts", args, [])
    columns = {
        path.name: json.loads(_child("run", args, [path]).splitlines()[-1]) for path in args.files
    }
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"ComfyUI {comfyui_version(comfyui_folder())}, {where}, {args.pixels} pixels")
    print(f"| stage | {' | '.join(columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for stage in STAGES:
        print(f"| {stage} | {' | '.join(_cell(found[stage]) for found in columns.values())} |")


def _cell(peak: dict[str, float]) -> str:
    text = f"{peak['resident']:.2f}"
    return text if peak["device"] is None else f"{text}, device {peak['device']:.2f}"


def _child(job: str, args: argparse.Namespace, files: list[Path]) -> str:
    command = [sys.executable, "-m", "benchmarks.workflow_memory", str(args.files[0])]
    command += [*map(str, files), "--child", job]
    command += ["--pixels", str(args.pixels), "--steps", str(args.steps)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _write_parts(parts: list[Path]) -> None:
    boot(comfyui_folder())
    import comfy.clip_model
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL

    networks = []
    for name in ("sd1_clip_config", "clip_config_bigg"):
        config = json.loads((comfyui_folder() / "comfy" / f"{name}.json").read_text())
        networks.append(
            comfy.clip_model.CLIPTextModel(
                config, torch.float16, "meta", comfy.ops.disable_weight_init
            )
        )
    with torch.device("meta"):
        networks.append(AutoencoderKL(ddconfig=_VAE, embed_dim=4))
    for path, network in zip(parts, networks, strict=True):
        shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
        tensors = {
            key: Stored(torch.float16, shape, lambda k=key, s=shape: random_tensor(k, s))
            for key, shape in shapes.items()
        }
        write_dense(path, tensors)


def _run(path: Path, parts: list[Path], pixels: int, steps: int) -> dict[str, dict[str, Any]]:
    boot(comfyui_folder())
    import comfy.sd
    import comfy.utils
    import nodes

    from comfy_vq.hosts.comfy.model.loader import load_file

    empty = memory()["VmRSS"]
    peaks: dict[str, dict[str, Any]] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set counts anew
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        result = work()
        device = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        peaks[name] = {"resident": (memory()["VmHWM"] - empty) / 1e9, "device": device}
        return result

    def encode() -> list[Any]:
        kind = comfy.sd.CLIPType.STABLE_DIFFUSION
        clip = comfy.sd.load_clip([str(parts[0]), str(parts[1])], clip_type=kind)
        texts = ("a lighthouse at dusk", "")
        return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]

    def decode(latent: dict[str, Any]) -> Any:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(parts[2])))
        return nodes.VAEDecode().decode(vae, latent)

    with torch.inference_mode():
        dense = comfy.sd.load_diffusion_model
        load = load_file if checkpoint.is_vq(path) else dense
        model = stage("load model", lambda: load(str(path)))
        positive, negative = stage("text encode", encode)
        empty_latent = {"samples": torch.zeros(1, 4, pixels // 8, pixels // 8)}
        (latent,) = stage(
            "sample",
            lambda: nodes.common_ksampler(
                model, 0, steps, 5.0, "euler", "normal", positive, negative, empty_latent
            ),
        )
        stage("decode", lambda: decode(latent))
    return peaks


if __name__ == "__main__":
    main()
