"""How well pictures fit their prompts, by a CLIP: the CLIP score and Pickscore of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import VQError

_BATCH = 8


class Scorer:
    """Mean cosine of pictures and prompts, as the paper's own script computes both scores.

    Args:
        model: a folder with a CLIP model of the `transformers` library: CLIP ViT-H/14 for the paper's
            CLIP score, PickScore_v1 for Pickscore.
        prompts: of the pictures, in their order.
        processor: a folder with its tokenizer and image processor; by default the model's.

    Raises:
        VQError: the library is not installed, or there is no such model in the folder.
    """

    def __init__(self, model: Path, prompts: Sequence[str], processor: Path | None = None) -> None:
        try:
            from transformers import AutoModel, AutoProcessor
        except ImportError as error:
            raise VQError(
                f"scores of pictures need a package that is not here: pip install transformers ({error})"
            ) from error
        self._prompts = list(prompts)
        try:
            self._processor: Any = AutoProcessor.from_pretrained(
                str(processor or model), local_files_only=True
            )
            self._model: Any = AutoModel.from_pretrained(str(model), local_files_only=True).eval()
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise VQError(
                f"{model}: found no CLIP model of transformers ({reason}), expected config.json, weights, "
                "tokenizer and preprocessor_config.json in this folder"
            ) from error
        if not hasattr(self._model, "get_image_features"):
            raise VQError(
                f"{model}: found a {type(self._model).__name__}, expected a CLIP model, which embeds pictures "
                "and texts"
            )

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> float:
        """Of ``[prompts, height, width, 3]`` in 0..1."""
        found = []
        for start in range(0, len(pictures), _BATCH):
            part = slice(start, start + _BATCH)
            whole = (pictures[part] * 255).round().to(torch.uint8).numpy()
            images = self._processor(images=list(whole), return_tensors="pt")
            texts = self._processor(
                text=self._prompts[part],
                padding=True,
                truncation=True,
                max_length=77,
                return_tensors="pt",
            )
            seen = _unit(self._model.get_image_features(pixel_values=images["pixel_values"]))
            read = _unit(
                self._model.get_text_features(
                    input_ids=texts["input_ids"], attention_mask=texts["attention_mask"]
                )
            )
            found.append((seen * read).sum(-1))
        return float(torch.cat(found).mean())


def _unit(features: Any) -> Tensor:
    tensor: Tensor = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(tensor.float(), dim=-1)
