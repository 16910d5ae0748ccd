"""Quantized models in memory: what a VQ file holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .codecs import CodebookSet, VQWeight


@dataclass
class Source:
    """Where the weights came from, and what the checkpoint said about itself.

    Attributes:
        name: of the source file or model, without folders.
        sha256: of the source file, where there was one.
        prefix: that was stripped from its keys, such as ``model.diffusion_model.``.
        metadata: of the source's safetensors header.
        root: root-level tensors by which a checkpoint describes itself (``v_pred``, ``ztsnr``,
            ``edm_*``), under their own names.
    """

    name: str = ""
    sha256: str | None = None
    prefix: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    root: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class VQModel:
    """Coded layers, everything else, and their history.

    Attributes:
        layers: coded weights by layer name: the original checkpoint key without the source's
            prefix and without ``.weight``.
        dense: every other tensor by original key without the prefix.
        source: see ``Source``.
        plan: JSON-able summary of the plan.
    """

    layers: dict[str, VQWeight]
    dense: dict[str, Tensor]
    source: Source = field(default_factory=Source)
    plan: dict[str, Any] = field(default_factory=dict)

    def codebook_sets(self) -> dict[str, CodebookSet]:
        """The distinct sets that the layers refer to, by name."""
        used = (w.codebooks for w in self.layers.values() if w.codebooks is not None)
        return {s.name: s for s in used}

    @property
    def numel(self) -> int:
        """Weights of the diffusion model, coded and dense."""
        coded = sum(w.numel for w in self.layers.values())
        return coded + sum(t.numel() for t in self.dense.values())

    @property
    def nbytes(self) -> int:
        """Bytes of everything stored but the header; each codebook set counts once."""
        return (
            sum(w.nbytes for w in self.layers.values())
            + sum(s.nbytes for s in self.codebook_sets().values())
            + sum(t.nbytes for t in self.dense.values())
        )

    @property
    def bits_per_weight(self) -> float:
        """``8 * nbytes / numel``: dense tensors, codes, scales and codebooks, all counted."""
        return 8 * self.nbytes / max(1, self.numel)

    def decode(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """The dense model, original keys without prefix.

        Args:
            dtype: of the decoded weights; by default each layer's own. Tensors that were never
                coded stay as they are.
        """
        decoded = {
            f"{name}.weight": w.decode(dtype or w.dtype).contiguous()
            for name, w in self.layers.items()
        }
        return {**self.dense, **decoded}


@dataclass
class Component:
    """What a file holds beside, or instead of, a diffusion model: text encoders, an autoencoder.

    Attributes:
        model: its weights, coded and dense, under the host's names; ``source.root`` holds what is no
            weight (a tokenizer's vocabulary).
        about: what a host has to know to build it again.
    """

    model: VQModel
    about: dict[str, str] = field(default_factory=dict)
