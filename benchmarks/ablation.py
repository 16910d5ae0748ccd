"""What each measure gains on the shipped model: the same model, coded with one measure more at a time.

    python make.py python -m benchmarks.ablation [--bits 3 2.2 4] [--pictures 24] [--out FOLDER]
                                                 [--host auto] [--plan measured]

The steps, each with all that the ones before it have, but for plans, which replace each other:

* greedy: every layer alike, codebooks by residual k-means, the nearest entry of one after the other;
* joint: every layer alike, codebooks trained together, beam search;
* table unet: a width for each layer, by the table that a UNet nobody has measured gets;
* table demo: by the table that was measured on this very model;
* measured: by forward passes of the network, starting from the table ``unet``;
* rotation: weights are rotated before they are coded;
* time: layers that see nothing but the time step are coded under the moments of what they see;
* trellis: the other codec, at widths chosen anew by the sensitivities that were measured.

Where every layer is alike, those that plans leave dense stay dense, and the bits come out as they do.
Encoding is timed in processor seconds, which other processes do not change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comfy_vq import checkpoint, codecs
from comfy_vq.codecs.codebooks import residual_kmeans, to_grid
from comfy_vq.codecs.encoder import EFFORTS, Effort
from comfy_vq.codecs.on_grid import usual_rotation
from comfy_vq.demo import task
from comfy_vq.demo.model_files import ModelFiles, model_files
from comfy_vq.demo.run import choose_bench
from comfy_vq.evaluation.report import to_table
from comfy_vq.evaluation.run import Named, evaluate
from comfy_vq.model import VQModel
from comfy_vq.plan import Choice, Plan, Task
from comfy_vq.plan.measured import measured_plan
from comfy_vq.probe import BenchProbe
from comfy_vq.quantize import WeightSource, plan_for
from comfy_vq.timestep import moments_of_time

_GREEDY = "greedy"
EFFORTS[_GREEDY] = Effort(beam=1)
_PROBED = (2, 4)
"""Prompts, none of them measured on, by whose answers layers and plans are compared."""


@dataclass(frozen=True)
class Step:
    """A way of coding the model.

    Attributes:
        plan: ``uniform``, a family, or ``measured``.
        codec: one of ``codecs.CODECS``.
        greedy, rotated, time: which measures are taken.
    """

    name: str
    plan: str
    codec: str = "additive"
    greedy: bool = False
    rotated: bool = False
    time: bool = False


STEPS = (
    Step("greedy", "uniform", greedy=True),
    Step("joint", "uniform"),
    Step("table unet", "unet"),
    Step("table demo", "demo"),
    Step("measured", "measured"),
    Step("rotation", "measured", rotated=True),
    Step("time", "measured", rotated=True, time=True),
    Step("trellis", "measured", "trellis", rotated=True, time=True),
)


class Plans:
    """Plans of one model, made when they are first asked for."""

    def __init__(self, weights: WeightSource, files: ModelFiles, host: str) -> None:
        self._weights, self._files, self._host = weights, files, host
        self._measured: dict[float, Plan] = {}

    def of(self, step: Step, bits: float) -> Plan:
        table = plan_for(self._weights, bits, family="unet", codec=step.codec)
        if step.plan == "uniform":
            return _uniform(table)
        if step.plan != "measured":
            return plan_for(self._weights, bits, family=step.plan, codec=step.codec)
        if bits not in self._measured:
            first = plan_for(self._weights, bits, family="unet")
            self._measured[bits] = self._measure(first, bits)
        measured = self._measured[bits]
        if step.codec == "additive":
            return measured
        how = {"family": "unet", "sensitivity_db": measured.sensitivity_db}
        return plan_for(self._weights, bits, codec=step.codec, **how)

    def _measure(self, table: Plan, bits: float) -> Plan:
        shown = task.subjects(sum(_PROBED), held_out=False)
        parts = shown[: _PROBED[0]], shown[_PROBED[0] :]
        first, second = (choose_bench(self._host, self._files, part) for part in parts)
        model = first.load(self._files.unet)
        network, layers = first.network(model), [layer.name for layer in table.layers]
        if network is model:  # a network of diffusers, which has names of its own
            from comfy_vq.hosts.diffusers import layers_of

            shapes = {key: self._weights.shape(key) for key in self._weights.keys()}  # noqa: SIM118
            modules = layers_of(network, shapes)
        else:
            modules = {layer: network.get_submodule(layer) for layer in layers}
        probe = BenchProbe(model, modules, self._read, first, second)
        numbers = table.other_bits, table.other_numel, bits
        return measured_plan(Task.of(table.layers, *numbers, "unet"), table, self._read, probe)

    def _read(self, layer: str) -> Tensor:
        return self._weights.read(f"{layer}.weight")


def _uniform(plan: Plan) -> Plan:
    """Every layer that a plan codes by the codec alike, at the whole number of bits that it aims at."""
    width, takes = Choice("additive", round(plan.target)), codecs.get("additive").supports
    alike = {layer.name for layer in plan.layers if takes(layer.shape)}
    choices = {
        name: width if choice.codec is not None and name in alike else choice
        for name, choice in plan.choices.items()
    }
    return replace(plan, choices=choices, family="uniform")


@cache
def _greedy_set(books: int) -> codecs.CodebookSet:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(1 << 15, 8, generator=generator)
    return to_grid(f"greedy-M{books}", residual_kmeans(groups, books, 15, generator))


class Encoder:
    """Codes layers, each in each way once."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights
        self._moments = moments_of_time(weights)
        self._done: dict[tuple[object, ...], tuple[codecs.VQWeight, float]] = {}

    def model(self, plan: Plan, step: Step) -> tuple[VQModel, float]:
        """The coded model, and processor seconds."""
        layers, dense, seconds = {}, {}, 0.0
        for key in self._weights.keys():  # noqa: SIM118
            name = key.removesuffix(".weight")
            choice = plan.choices.get(name) if key.endswith(".weight") else None
            if choice is None or choice.codec is None:
                dense[key] = self._weights.read(key).clone()
            else:
                layers[name], spent = self._coded(name, choice, step)
                seconds += spent
        return VQModel(layers, dense, self._weights.source, plan.summary()), seconds

    def _coded(self, name: str, choice: Choice, step: Step) -> tuple[codecs.VQWeight, float]:
        moments = self._moments.get(name) if step.time and choice.codec != "int8" else None
        way = name, str(choice), step.greedy, step.rotated, moments is not None
        if way not in self._done:
            options = {} if choice.codec == "int8" else self._options(name, choice, step)
            weight = self._weights.read(f"{name}.weight")
            arguments = choice.bits, choice.codec or "", _GREEDY if step.greedy else "balanced"
            started = time.process_time()
            coded = codecs.encode(weight, *arguments, moments=moments, **options)
            self._done[way] = coded, time.process_time() - started
        return self._done[way]

    def _options(self, name: str, choice: Choice, step: Step) -> dict[str, Any]:
        shape = self._weights.shape(f"{name}.weight")
        options: dict[str, Any] = {"unbiased": True}
        options["rotation"] = usual_rotation(shape, 0) if step.rotated else None
        if step.greedy:
            options["codebooks"] = _greedy_set(choice.bits)
        return options


def steps_by(plan: str) -> tuple[Step, ...]:
    """The steps with another plan than the measured one from the rotation on, or with that one."""
    if plan == "measured":
        return STEPS
    others = (step for step in STEPS if step.name != "measured")
    return tuple(replace(s, plan=plan) if s.plan == "measured" else s for s in others)


def ladder(
    steps: Sequence[Step], weights: WeightSource, plans: Plans, bits: float, out: Path
) -> Sequence[Named]:
    """Files of the steps."""
    encoder, found = Encoder(weights), []
    for step in steps:
        model, seconds = encoder.model(plans.of(step, bits), step)
        path = out / f"{step.name.replace(' ', '-')}-{bits:g}.safetensors"
        checkpoint.save(path, model)
        found.append(Named(step.name, path, task.size_of(path), {"encode s": seconds}))
        print(
            f"{bits:g} {step.name}: {model.bits_per_weight:.3f} bits, {seconds:.1f} s", flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 2.2, 4.0])
    parser.add_argument("--pictures", type=int, default=24, help="held-out prompts to sample")
    parser.add_argument("--host", choices=("auto", "comfyui", "diffusers"), default="auto")
    parser.add_argument(
        "--plan", choices=("measured", "demo", "unet"), default="measured", help="from rotation on"
    )
    parser.add_argument("--out", type=Path, default=Path("ablation_out"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    files, subjects = model_files(), task.subjects(args.pictures)
    weights = checkpoint.open_dense(files.unet)
    bench, plans = choose_bench(args.host, files, subjects), Plans(weights, files, args.host)
    reference = Named("dense", files.unet, bench.size(files.unet))
    for bits in args.bits:
        candidates = ladder(steps_by(args.plan), weights, plans, bits, args.out)
        folder = args.out / f"{bits:g}"
        how = {"judge": lambda pictures: task.judge(pictures, subjects), "layers": False}
        report = evaluate(bench, reference, candidates, folder, **how)
        print(f"\n{bits:g} bits, {bench.name}\n\n{to_table(report)}\n", flush=True)


if __name__ == "__main__":
    main()
