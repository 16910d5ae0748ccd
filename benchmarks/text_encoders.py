"""Text encoders: how large they become, and how far their conditioning is from the dense ones'.

    python -m benchmarks.text_encoders sizes
    python -m benchmarks.text_encoders quality clip_l.safetensors t5xxl_fp16.safetensors --type flux \\
        --bits 3 4 6 [--effort fast]

Needs the environment of a ComfyUI, found as the tests find it. ``sizes`` plans the host's own encoders at
full shape, without weights. ``quality`` quantizes the encoders of files as VQ Quantize CLIP does and encodes
prompts with the dense and the coded ones: SQNR in dB of the conditioning and of the pooled vector, mean over
the prompts. ``--random`` gives the weights of the files' shapes random values: that tests arithmetic, and
says nothing about pictures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from benchmarks.sdxl_load import comfyui_folder
from comfy_vq.cli.prompts import PROMPTS
from comfy_vq.evaluation.metrics import sqnr_db
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version

ENCODERS = {
    "CLIP-L (SD 1.x)": ("sd1_clip", "SD1ClipModel"),
    "CLIP-L + CLIP-G (SDXL)": ("sdxl_clip", "SDXLClipModel"),
    "CLIP-L + T5-XXL (Flux)": ("text_encoders.flux", "FluxClipModel"),
    "UMT5-XXL (Wan)": ("text_encoders.wan", "WanT5Model"),
    "Gemma 2 2B (Lumina 2)": ("text_encoders.lumina2", "LuminaModel"),
    "Qwen3 4B (Z-Image)": ("text_encoders.z_image", "ZImageTEModel"),
    "Qwen2.5-VL 7B (Qwen-Image)": ("text_encoders.qwen_image", "QwenImageTEModel"),
}
BITS = (3.0, 4.0, 6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    commands.add_parser("sizes").set_defaults(run=lambda args: sizes())
    command = commands.add_parser("quality")
    command.add_argument("files", type=Path, nargs="+")
    command.add_argument("--type", default="stable_diffusion", help="as CLIPLoader calls it")
    command.add_argument("--bits", type=float, nargs="+", default=BITS)
    command.add_argument("--effort", default="fast")
    command.add_argument("--random", action="store_true")
    command.set_defaults(run=quality)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        boot(comfyui_folder(), cpu=True, base_directory=Path(base))
        print(f"ComfyUI {comfyui_version(comfyui_folder())}")
        args.run(args)


def sizes() -> None:
    """A row for each model: weights, those in tables, and MB dense and coded, tables included."""
    import importlib

    import torch

    from comfy_vq.budget import coded_bytes
    from comfy_vq.hosts.comfy.clip.quantizing import plan_of
    from comfy_vq.hosts.comfy.clip.source import EncoderSource

    shown = " | ".join(f"VQ{bits:g} MB" for bits in BITS)
    print(f"| text encoders | M weights | in tables | fp16 MB | {shown} |")
    print("|---|---" + "|---" * (2 + len(BITS)) + "|")
    for name, (module, cls) in ENCODERS.items():
        made = getattr(importlib.import_module(f"comfy.{module}"), cls)
        model = made(device="meta", dtype=torch.float16, model_options={})
        source = EncoderSource(SimpleNamespace(patches={}), model)
        numel = sum(torch.Size(source.shape(key)).numel() for key in source.keys())  # noqa: SIM118
        coded = [coded_bytes(plan_of(source, bits)) + source.table_bytes for bits in BITS]
        row = [
            name,
            f"{numel / 1e6:.0f}",
            f"{source.table_numel / 1e6:.0f}",
            f"{2 * numel / 1e6:.0f}",
        ]
        print("| " + " | ".join([*row, *(f"{n / 1e6:.0f}" for n in coded)]) + " |", flush=True)


def quality(args: argparse.Namespace) -> None:
    """A row for each number of bits: SQNR, size and time."""
    import comfy.sd
    import comfy.utils
    import torch

    from comfy_vq.hosts.comfy.clip.quantizing import conditioning, quantize_clip

    encoders = [comfy.utils.load_torch_file(str(path), safe_load=True) for path in args.files]
    if args.random:
        generator = torch.Generator().manual_seed(0)
        for encoder in encoders:
            for key, tensor in encoder.items():
                if tensor.ndim == 2 and "embed" not in key and "shared" not in key:
                    noise = torch.randn(tensor.shape, generator=generator)
                    encoder[key] = (noise * tensor.shape[1] ** -0.5).to(tensor.dtype)
    kind = comfy.sd.CLIPType[args.type.upper()]
    dense = comfy.sd.load_text_encoder_state_dicts(encoders, clip_type=kind)
    references = [conditioning(dense, prompt) for prompt in PROMPTS]
    print("| bits | " + " | ".join(f"{name} dB" for name in references[0]) + " | MB | seconds |")
    print("|---" * (3 + len(references[0])) + "|")
    for bits in args.bits:
        started = time.perf_counter()
        coded, _ = quantize_clip(dense, bits, args.effort, "")
        seconds = time.perf_counter() - started
        found = [conditioning(coded, prompt) for prompt in PROMPTS]
        means = [
            statistics.mean(
                sqnr_db(r[name], f[name]) for r, f in zip(references, found, strict=True)
            )
            for name in references[0]
        ]
        size = coded.patcher.model_size() / 1e6
        row = [f"{bits:g}", *(f"{mean:.1f}" for mean in means), f"{size:.1f}", f"{seconds:.0f}"]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
