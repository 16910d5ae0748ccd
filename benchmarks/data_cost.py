"""What calibrating and fine-tuning SDXL takes, by counting, and how moments compare with layers by the clock.

    python make.py python -m benchmarks.data_cost [--device cuda] [--side 128] [--pictures 16] [--steps 25]

Runs SDXL's network, as diffusers builds it, without weights (on ``meta``), and counts the multiplications of
a prediction as torch does, attention included, and those of the second moments of all layers' inputs, each
distinct input once. Then times one layer of each distinct shape, and the moments of its input, on
``--device``; the share of the one in the other is what calibration adds to sampling. Hours are the counted
operations at rates that a card may reach, for whoever knows what theirs does.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from comfy_vq.calibration.inputs import is_convolution, products

_RATES = (5, 10, 20, 40)
"""TFLOP/s, of which two are a multiplication and an addition."""
_LEARNING = 4
"""Forward, forward again with activations that were spared, and backward through inputs and weights."""
_ROWS = 8
"""Predictions of an iteration, as ``finetune`` has by default."""
_SECONDS = 0.2
_CONFIG = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
"""Of SDXL's network, by diffusers' names."""


@dataclass(frozen=True)
class Kind:
    """Layers that do the same work.

    Attributes:
        weight, input: shapes.
        stride: of a convolution.
    """

    weight: tuple[int, ...]
    input: tuple[int, ...]
    stride: int = 1

    def layer(self, device: torch.device) -> nn.Module:
        if len(self.weight) == 2:
            return nn.Linear(self.weight[1], self.weight[0], device=device)
        size, padding = self.weight[2], self.weight[2] // 2
        return nn.Conv2d(self.weight[1], self.weight[0], size, self.stride, padding, device=device)


@dataclass(frozen=True)
class Prediction:
    """What one prediction asks of the network.

    Attributes:
        operations: of everything.
        layers: how many of each kind.
        inputs: how many distinct inputs of each kind are heard.
    """

    operations: int
    layers: Counter[Kind]
    inputs: Counter[Kind]

    def of_moments(self) -> int:
        """Operations that hearing all inputs takes."""
        return sum(
            count * operations(lambda k=kind: _heard(k)) for kind, count in self.inputs.items()
        )


def prediction(side: int) -> Prediction:
    """Of one row; ``side`` is that of the latents."""
    with torch.device("meta"):
        network = UNet2DConditionModel(**_CONFIG).eval()
    layers: Counter[Kind] = Counter()
    inputs: Counter[Kind] = Counter()
    seen: dict[int, Tensor] = {}

    def hear(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0]
        stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        kind = Kind(tuple(layer.get_parameter("weight").shape), tuple(x.shape), stride)
        layers[kind] += 1
        if is_convolution(layer) or id(x) not in seen:
            inputs[kind] += 1
            seen[id(x)] = x  # held, or another tensor may have its id

    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_pre_hook(hear)
    with torch.device("meta"), torch.no_grad():
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        asked = torch.empty(1, 4, side, side), torch.empty(1), torch.empty(1, 77, 2048)
        count = operations(lambda: network(*asked, added_cond_kwargs=added))
    return Prediction(count, layers, inputs)


def operations(call: Callable[[], object]) -> int:
    """As torch counts them: two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def _heard(kind: Kind) -> object:
    meta = torch.device("meta")
    return products(kind.layer(meta), torch.empty(kind.input, device=meta))


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the least of several."""
    call()
    least, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until or least == float("inf"):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        least = min(least, time.perf_counter() - started)
    return least


def shares(found: Prediction, device: torch.device) -> Iterator[tuple[Kind, float, float]]:
    """Seconds of each kind of layer, all of its kind together, and of the moments of their inputs."""
    with torch.no_grad():
        for kind, count in found.layers.most_common():
            layer, x = kind.layer(device), torch.randn(kind.input, device=device)
            heard = found.inputs[kind] * timed(lambda l=layer, x=x: products(l, x), device)
            yield kind, count * timed(lambda l=layer, x=x: l(x), device), heard


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--side", type=int, default=128, help="of latents")
    parser.add_argument("--pictures", type=int, default=16, help="to calibrate on")
    parser.add_argument("--steps", type=int, default=25, help="of each, with and without prompt")
    args = parser.parse_args()
    found = prediction(args.side)
    moments = found.of_moments()
    print(f"a prediction: {found.operations / 1e12:.2f} TFLOP, its moments {moments / 1e12:.2f}")
    evaluations = 2 * args.pictures * args.steps
    calibrated = evaluations * (found.operations + moments)
    iteration = _ROWS * _LEARNING * found.operations
    print(
        f"\n| TFLOP/s | calibrating on {args.pictures} pictures, minutes | iterations in 8 hours |"
    )
    print("|---|---|---|")
    for rate in _RATES:
        minutes, nights = calibrated / rate / 60e12, 8 * 3600 * rate * 1e12 / iteration
        print(f"| {rate} | {minutes:.1f} | {nights:.0f} |")
    print(f"\n{args.device}, {torch.get_num_threads()} threads\n")
    print("| weight | input | layers | layers ms | moments ms |\n|---|---|---|---|---|")
    totals = [0.0, 0.0]
    for kind, layer, heard in shares(found, args.device):
        totals[0] += layer
        totals[1] += heard
        cells = [list(kind.weight), list(kind.input), found.layers[kind]]
        cells += [f"{1e3 * layer:.1f}", f"{1e3 * heard:.1f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(f"\nmoments take {totals[1] / totals[0]:.0%} of what the layers take")


if __name__ == "__main__":
    main()
