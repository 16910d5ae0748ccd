"""Measure how much each layer of the demo's denoiser shows in its output, for the plan's table.

    python -m training.measure_sensitivity measure --model training/demo_model
    python -m training.measure_sensitivity compare --model training/demo_model

``measure`` quantizes one layer at a time, at 2 and at 4 bits, leaves all others dense, and compares
the predicted noise with the dense model's on one fixed batch: noised latents of drawn training
scenes at several timesteps, with their captions. It writes the table of family ``demo``. ``compare``
quantizes the whole model by that table and by others, on captions held out of training.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from comfy_vq import calibration, checkpoint, codecs
from comfy_vq.calibration.gate import Gate
from comfy_vq.demo.conditioning import embed
from comfy_vq.demo.scenes import Scene, draw, held_out, training
from comfy_vq.demo.with_diffusers import noise_schedule
from comfy_vq.evaluation import sqnr_db
from comfy_vq.hosts.diffusers import load_unet
from comfy_vq.quantize import quantize
from comfy_vq.timestep import moments_of_time
from training.latents import latents

TABLE = Path(__file__).parent.parent / "comfy_vq" / "plan" / "tables" / "demo.json"
_TIMESTEPS = range(100, 1000, 200)
_BITS = (2, 4)
_BITS_UNDER_MOMENTS = (1, 2, 4)
_NO_NOISE_DB = 120.0  # what rounding in float32 leaves; a layer without effect is infinite


@dataclass(frozen=True, eq=False)
class Batch:
    """What the network is asked: a row per scene and timestep.

    Attributes:
        noisy: float32 ``[n, 4, 8, 8]``.
        timesteps: int64 ``[n]``.
        context: float32 ``[n, tokens, 768]``.
    """

    noisy: Tensor
    timesteps: Tensor
    context: Tensor


def make_batch(scenes: Sequence[Scene], count: int, seed: int) -> Batch:
    """``count`` scenes, chosen and drawn by chance, at each timestep."""
    rng = np.random.default_rng(seed)
    chosen = [scenes[i] for i in rng.choice(len(scenes), count, replace=False)]
    pictures = torch.from_numpy(np.stack([draw(scene, rng) for scene in chosen]))
    clean = latents(pictures.permute(0, 3, 1, 2).float() / 255).repeat(len(_TIMESTEPS), 1, 1, 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    timesteps = torch.tensor(_TIMESTEPS).repeat_interleave(count)
    context = embed([scene.caption for scene in chosen]).repeat(len(_TIMESTEPS), 1, 1)
    return Batch(noise_schedule().add_noise(clean, noise, timesteps), timesteps, context)


@torch.inference_mode()
def predict(unet: torch.nn.Module, batch: Batch) -> Tensor:
    """Predicted noise, float32 ``[n, 4, 8, 8]``."""
    return unet(batch.noisy, batch.timesteps, batch.context).sample


def sensitivity_db(
    weights: dict[str, Tensor],
    layers: Sequence[str],
    predictor: Callable[[], Tensor],
    moments: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Output noise per unit of weight NMSE of each layer, in dB, means over the widths.

    Args:
        weights: the dense model, float32; layers are changed in place and put back.
        layers: names without ``.weight``.
        predictor: the output of the network that holds these very tensors.
        moments: under which layers are coded, see ``codecs.encode``. Plans take their errors to be
            those of weights that are coded without. With few bits they are not much smaller, so
            what counts is the width that gains least.
    """
    reference, moments = predictor(), moments or {}
    found = {}
    for layer in tqdm(layers, desc="measuring"):
        weight = weights[f"{layer}.weight"]
        original = weight.clone()
        values, aim = [], moments.get(layer)
        widths = _BITS if aim is None else _BITS_UNDER_MOMENTS
        for bits in widths if codecs.get("additive").supports(tuple(weight.shape)) else (8,):
            if bits == 8:
                plain = coded = codecs.encode(original, bits, "int8")
            else:
                how = {"bits": bits, "effort": "fast", "unbiased": True}
                plain = coded = codecs.encode(original, **how)
                if aim is not None:
                    coded = codecs.encode(original, moments=aim, **how)
            weight.copy_(coded.decode())
            output_db = min(_NO_NOISE_DB, sqnr_db(reference, predictor()))
            values.append(sqnr_db(original, plain.decode()) - output_db)
            weight.copy_(original)
        found[layer] = mean(values) if aim is None else max(values)
    return found


def is_layer(key: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of this model is the weight of a linear layer or a convolution."""
    return key.endswith(".weight") and len(shape) in (2, 4)


class _Weights:
    """The dense model as what ``quantize`` reads."""

    def __init__(self, dense: checkpoint.DenseCheckpoint) -> None:
        self.source = dense.source
        self.keys, self.shape, self.dtype, self.read = (
            dense.keys,
            dense.shape,
            dense.dtype,
            dense.read,
        )

    def codable(self, key: str) -> bool:
        return is_layer(key, self.shape(key))


def measure(args: argparse.Namespace) -> None:
    """Write the table."""
    dense = checkpoint.open_dense(args.model / "unet.safetensors")
    weights = {key: dense.read(key).float() for key in dense.keys()}  # noqa: SIM118
    layers = [key.removesuffix(".weight") for key in weights if is_layer(key, dense.shape(key))]
    batch = make_batch(training(), args.scenes, seed=0)
    unet = load_unet(weights)
    moments = moments_of_time(_Weights(dense))
    values = sensitivity_db(weights, layers, lambda: predict(unet, batch), moments)
    rules = [[n, round(v, 1)] for n, v in sorted(values.items(), key=lambda item: -item[1])]
    table = {
        "source": "measured by training/measure_sensitivity.py on the shipped model "
        f"(unet.safetensors, sha256 {dense.source.sha256})",
        "size_exponent": 0,
        "absolute": True,
        "extends": "unet",
        "rules": rules,
    }
    text = json.dumps(table)
    text = text.replace("[[", "[\n[").replace("], [", "],\n[").replace("]]", "]\n]")
    args.table.write_text(text + "\n", "utf-8")
    print(text)


def compare(args: argparse.Namespace) -> None:
    """Print the output SQNR that each family's table leads to."""
    path = args.model / "unet.safetensors"
    dense = checkpoint.open_dense(path)
    weights = _Weights(dense)
    batch = make_batch(held_out(), args.scenes, seed=1)
    reference = predict(load_unet({key: dense.read(key).float() for key in dense.keys()}), batch)  # noqa: SIM118
    print("bits  family   counted  predicted dB  measured dB")
    for bits in args.bits:
        for family in args.families:
            gate = None if args.calibration is None else Gate(calibration.load(args.calibration))
            how = {"effort": args.effort, "family": family, "codec": args.codec, "gate": gate}
            model = quantize(weights, bits, **how)
            found = sqnr_db(reference, predict(load_unet(model), batch))
            predicted = model.plan.get("predicted_sqnr_db", math.nan)
            print(
                f"{bits:<5g} {family:<8} {model.bits_per_weight:7.3f}  {predicted:12.2f}  "
                f"{found:11.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("measure", "compare"))
    parser.add_argument("--model", type=Path, required=True, help="folder of unet.safetensors")
    parser.add_argument("--scenes", type=int, default=12, help="scenes per timestep")
    parser.add_argument("--table", type=Path, default=TABLE, help="what measure writes")
    parser.add_argument("--bits", type=float, nargs="+", default=[4.0, 3.0, 2.2])
    parser.add_argument("--families", nargs="+", default=["demo", "unet", "generic"])
    parser.add_argument("--effort", default="balanced")
    parser.add_argument("--codec", choices=codecs.CODECS, default=codecs.CODECS[0])
    parser.add_argument("--calibration", type=Path, help="for compare: what `calibrate` wrote")
    args = parser.parse_args()
    {"measure": measure, "compare": compare}[args.command](args)


if __name__ == "__main__":
    main()
