"""LoRAs on a VQ model in the real ComfyUI: what they change, and what they cost.

    python make.py python -m benchmarks.lora [--tables adapters cost] [--pixels 256] [--rank 16]
        [--dynamic]

Table ``adapters``: the shipped model at 3 bits with adapters of every kind, against the dense model
that holds the same decoded weights with the same adapter, in float32, on the device that ComfyUI
chooses. Relative L2 of one prediction of noise: loaded completely, by half, not at all; with
``--dynamic``, which needs a graphics card, by the host's DynamicVRAM. *effect* is how far the adapter
moves it. Ends with status 1 where a difference exceeds 1e-4.

Table ``cost``: a UNet of SDXL's shapes with random codes of 3 bits and 0, 1 and 4 LoRAs on all linear
layers of its transformers. *beside*: as they run. *in the weight*: as they would run if each weight were
patched whenever it is decoded, which is what other compressed formats do. Times are medians of
calls of the UNet with guidance; memory is of the process, over one that has loaded nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from typing import Any

import torch

from benchmarks.adapters import FOR_CONVOLUTIONS, KINDS, adapter
from benchmarks.sdxl_load import comfyui_folder, memory
from benchmarks.step_child import Calls, enable_dynamic_vram, sample_once
from benchmarks.step_memory import peaks, reset_peaks
from benchmarks.timing import markdown, where
from comfy_vq.hosts.comfy_boot import boot
from comfy_vq.hosts.locate import comfyui_version

CPU = torch.device("cpu")
MOST = 1e-4
PLACES = {"Linear": ("attn1.to_q", "ff.net.2"), "Conv2d": ("in_layers.2", "skip_connection")}
"""Endings of the names of the layers that adapters change."""
LOADS = {"full": 0, "half": None, "low VRAM": 1}
"""Bytes of weights to load, as the host has it: 0 is all of them. None: of half."""
STRENGTH = 0.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--pixels", type=int, default=256, help="height and width; table cost")
    parser.add_argument("--steps", type=int, default=5, help="calls of the UNet; table cost")
    parser.add_argument("--rank", type=int, default=16, help="of the LoRAs; table cost")
    parser.add_argument("--dynamic", action="store_true", help="load by DynamicVRAM")
    args = parser.parse_args()
    boot(comfyui_folder(), options=("--force-fp32", "--disable-dynamic-vram"))
    if args.dynamic:
        enable_dynamic_vram()
    import comfy.model_management

    torch.backends.cudnn.allow_tf32 = False
    device = comfy.model_management.get_torch_device()
    print(f"ComfyUI {comfyui_version(comfyui_folder())}; {where(device)}")
    wrong = 0
    with torch.inference_mode():
        for name in args.tables:
            table, bad = TABLES[name](args)
            wrong += bad
            print(f"\n{table}", flush=True)
    if wrong:
        print(f"\n{wrong} DIFFER BY MORE THAN {MOST:g}")
    return 1 if wrong else 0


def adapters_table(args: argparse.Namespace) -> tuple[str, int]:
    """The table, and how many of its figures exceed ``MOST``."""
    import comfy.sd

    from comfy_vq.checkpoint import open_dense
    from comfy_vq.demo.model_files import model_files
    from comfy_vq.hosts.comfy.model.loader import InMemory, load
    from comfy_vq.quantize import quantize

    vq = quantize(open_dense(model_files().unet), 3.0, effort="fast")
    model = load(InMemory(vq))
    dense = comfy.sd.load_diffusion_model_state_dict(vq.decode(torch.float32))
    loads = {"dynamic": 0} if args.dynamic else LOADS
    plain, rows, wrong = predict(model, 0), [], 0
    for kind in KINDS:
        for place, endings in PLACES.items():
            if place == "Linear" and kind in FOR_CONVOLUTIONS:
                continue
            file = adapter(kind, shapes(model, endings))
            expected = predict(with_lora(dense, file), 0)
            patched = with_lora(model, file)
            beside = all(p.beside is not None for p in patched.made_patches().values())
            found = [relative_l2(expected, predict(patched, budget)) for budget in LOADS.values()]
            rows.append(
                [
                    kind,
                    place,
                    str(len(patched.patches)),
                    "beside the codes" if beside else "in the decoded weight",
                    *(f"{error:.1e}" for error in found),
                    f"{relative_l2(expected, plain):.1e}",
                ]
            )
    return markdown(["adapter", "layers", "weights", "runs", *loads, "effect"], rows), wrong


def cost_table(args: argparse.Namespace) -> tuple[str, int]:
    from benchmarks.random_vq import random_sdxl
    from comfy_vq.hosts.comfy.model.loader import InMemory, load
    from comfy_vq.lowrank import Beside

    empty = memory()["VmRSS"]
    model = load(InMemory(random_sdxl(3.0)))
    names = shapes(model, ("",), inside="transformer_blocks")
    found: dict[tuple[str, int], dict[str, Any]] = {}
    pays = Beside.pays
    for how in ("beside", "in the weight"):
        Beside.pays = pays if how == "beside" else lambda _: False
        for count in (0, 1, 4):
            if count == 0 and how != "beside":
                continue
            patched = model
            for seed in range(count):
                file = adapter("lora", names, args.rank, seed)
                half = {key: value.half() for key, value in file.items()}
                patched = with_lora(patched, half)
            found[how, count] = {
                **cost(patched, args.pixels, args.steps, empty),
                "thin": patched.model_size() - model.model_size(),
            }
            del patched
    Beside.pays = pays
    none = found["beside", 0]
    rows = [
        [
            f"{count}{'' if count == 0 else ', ' + how}",
            f"{one['seconds']:.2f}",
            f"{one['seconds'] / none['seconds']:.2f}x",
            f"{one['thin'] / 1e6:.0f}",
            f"{one['peak'] / 1e9:.2f}",
            f"{one['peak'] / none['peak']:.2f}x",
        ]
        for (how, count), one in found.items()
    ]
    head = ["LoRAs", "step s", "to none", "thin matrices MB", "peak GB", "to none"]
    return f"Rank {args.rank}, {len(names)} layers\n\n" + markdown(head, rows), 0


TABLES = {"adapters": adapters_table, "cost": cost_table}


def cost(model: Any, pixels: int, steps: int, empty: int) -> dict[str, Any]:
    """Median seconds of a call of the UNet, and the process's peak."""
    calls = Calls(CPU)
    sample_once(model, calls, pixels, 1)  # decides the order of layers, loads patches
    calls.seconds.clear()
    reset_peaks(CPU)
    assert sample_once(model, calls, pixels, steps)
    calls.last = None
    return {"seconds": statistics.median(calls.seconds), **peaks(CPU, empty)}


def shapes(model: Any, endings: tuple[str, ...], inside: str = "") -> dict[str, tuple[int, ...]]:
    """Of coded weights whose layers' names end so, by the names that LoRA files have for them."""
    import comfy.lora

    names = comfy.lora.model_lora_keys_unet(model.model, {})
    by_key = {key: name for name, key in names.items() if isinstance(key, str)}
    return {
        by_key[key]: tuple(layer.weight.shape)
        for key, layer in model.coded_layers.items()
        if key in by_key and inside in key and key.removesuffix(".weight").endswith(endings)
    }


def with_lora(model: Any, file: dict[str, torch.Tensor]) -> Any:
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, file, STRENGTH, 0)[0]


def predict(model: Any, budget: int | None) -> torch.Tensor:
    """One prediction of noise, with weights loaded as ``LOADS`` says, or by DynamicVRAM."""
    import comfy.model_management

    generator, device = torch.Generator().manual_seed(0), model.load_device
    width = model.model.model_config.unet_config["context_dim"]
    latent = torch.randn((1, 4, 8, 8), generator=generator).to(device)
    context = torch.randn((1, 16, width), generator=generator).to(device)
    if model.is_dynamic():
        comfy.model_management.load_models_gpu([model])
    else:
        half = model.model_size() // 2
        model.patch_model(device, lowvram_model_memory=half if budget is None else budget)
    try:
        sigma = torch.tensor([7.0], device=device)
        return model.model.apply_model(latent, sigma, c_crossattn=context).cpu()
    finally:
        model.detach()


def relative_l2(expected: torch.Tensor, found: torch.Tensor) -> float:
    return math.sqrt(float((found - expected).square().sum() / expected.square().sum()))


if __name__ == "__main__":
    sys.exit(main())
