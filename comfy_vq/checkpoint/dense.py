"""Dense checkpoints as a source of weights, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..codecs.weight import RANKS
from ..model import Source
from .fields import FIELDS
from .header import Entry, FileHeader, read_header
from .refusal import COPY_AGAIN, refuse
from .values import check_finite

_FULL_CHECKPOINT = "model.diffusion_model."
_OTHER_PREFIXES = ("model.model.", "net.")
_LAST_PREFIX = "model."
_FEW = 5
_ROOT_KEYS = ("v_pred", "ztsnr")
_ROOT_NUMEL = 16
_CHUNK = 1 << 22

_QUANTIZED_ENDINGS = (
    ".comfy_quant",
    ".weight_scale",
    ".scale_weight",
    ".qweight",
    ".quant_state",
    "scaled_fp8",
)
_FUSED_BY_HOST = (
    ("joint_transformer_blocks.0.attn.add_k_proj.weight",),
    ("adaln_single.emb.timestep_embedder.linear_1.bias", "pos_embed.proj.bias"),
    ("noise_refiner.0.attention.to_k.weight",),
    ("x_embedder.weight", "single_transformer_blocks.0.attn.to_q.weight"),
    ("transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"),
)
"""Keys of transformers in the layout of diffusers, of which ComfyUI joins several weights into one
while loading (AuraFlow, PixArt, Z-Image, Flux, SD3). Coded weights cannot be joined."""

_NO_LAYER = re.compile(
    r"(^|\.)("
    # embeddings
    r"label_emb|style_embedder|cond_type_embedding|embed_image_indicator|trainable_cond_mask"
    r"|lyric_embs|llm_adapter\.embed|language_model\.embed_tokens|visual\.pos_embed"
    # parameters of modules of the host's own: routers of experts, Fourier features, a motion encoder
    r"|ff_i\.gate|moe\.gate|timestep_features|motion_encoder\.(enc|dec)\..+"
    # transposed convolutions
    r"|up_upscalers\.\d+\.\d+|decoder\.proj_out\.\d+"
    # cut in pieces while the host loads it
    r"|pixel_blocks\.\d+\.adaLN_modulation\.0"
    r")\.weight$"
)
"""What looks like the weight of a layer by key and shape, and is none that can be held coded."""
_BESIDE = re.compile(r"cc_projection\.|conditioner\.conditioners\.(seconds_(start|total)|prompt)\.")
"""Tensors beside the diffusion model without which the host's loader does not make the model: those
of Zero123 and Stable Audio."""


def open_dense(path: str | os.PathLike[str]) -> DenseCheckpoint:
    """Open a dense safetensors checkpoint, full or of a bare diffusion model.

    Of a full checkpoint (keys with the prefix ``model.diffusion_model.``) autoencoder and text
    encoders are left out.

    Raises:
        VQError: not a safetensors file, a damaged one, a VQ checkpoint, one that is quantized
            otherwise, or one of a layout that ComfyUI rearranges while loading.
    """
    file = read_header(path)
    if FIELDS[0].key in file.metadata:
        refuse(
            path,
            "file",
            "a VQ checkpoint",
            "a dense one",
            "quantizing twice would add the errors up: take its source, or decode it first",
        )
    prefix = _prefix(file.entries)
    entries, root = {}, {}
    for key, entry in file.entries.items():
        if _describes_model(key, entry, prefix):
            root[key] = entry
        elif key.startswith(prefix):
            entries[key[len(prefix) :]] = entry
    _refuse_quantized(file, entries)
    _refuse_fused(file, entries)
    return DenseCheckpoint(file, prefix, entries, root)


class DenseCheckpoint:
    """A source of weights for ``quantize``. Keys are the original ones without the prefix."""

    def __init__(
        self,
        file: FileHeader,
        prefix: str,
        entries: Mapping[str, Entry],
        root: Mapping[str, Entry],
    ) -> None:
        self._file = file
        self._prefix = prefix
        self._entries = entries
        self._root = root

    def keys(self) -> list[str]:
        """All tensors of the diffusion model, in the order of the header."""
        return list(self._entries)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._entries[key].shape

    def dtype(self, key: str) -> torch.dtype:
        return self._entries[key].dtype

    def codable(self, key: str) -> bool:
        """Whether the tensor looks like the weight of a linear layer or a convolution."""
        entry = self._entries[key]
        floating = entry.dtype.is_floating_point
        matrix = len(entry.shape) in RANKS and entry.numel > 0
        return key.endswith(".weight") and matrix and floating and not _NO_LAYER.search(key)

    def read(self, key: str) -> Tensor:
        """One tensor, on the CPU. Raises VQError if it cannot be read or holds NaN or Inf."""
        return self._read(self._prefix + key, self._entries[key])

    @property
    def source(self) -> Source:
        """Name, SHA-256 and what the file says about itself. The first use reads the whole file."""
        return self._described

    @cached_property
    def _described(self) -> Source:
        path = self._file.path
        return Source(
            name=path.name,
            sha256=_sha256(path),
            prefix=self._prefix,
            metadata=dict(self._file.metadata),
            root={key: self._read(key, entry) for key, entry in self._root.items()},
        )

    def _read(self, name: str, entry: Entry) -> Tensor:
        path = self._file.path
        # Read, not mapped: pages of a map would stay in this process's memory, file by file.
        data = torch.empty(entry.nbytes, dtype=torch.uint8)
        with _opened(path) as file:
            file.seek(self._file.data_start + entry.begin)
            count = file.readinto(memoryview(data.numpy()))
        if count != entry.nbytes:
            found = f"{count} bytes: the file was cut short while it was read"
            refuse(path, f"tensor {name}", found, f"{entry.nbytes}", COPY_AGAIN)
        tensor = data.view(entry.dtype).reshape(entry.shape)
        check_finite(path, f"tensor {name}", tensor, f"{COPY_AGAIN}, or repair the model")
        return tensor


def _prefix(entries: Mapping[str, Entry]) -> str:
    """The prefix of the diffusion model's keys, found as ComfyUI's loader finds it."""
    if any(key.startswith(_FULL_CHECKPOINT) for key in entries):
        return _FULL_CHECKPOINT
    counts = {p: sum(key.startswith(p) for key in entries) for p in _OTHER_PREFIXES}
    most = max(counts, key=lambda p: counts[p])
    if counts[most] > _FEW:
        return most
    return _LAST_PREFIX if any(key.startswith(_LAST_PREFIX) for key in entries) else ""


def _describes_model(key: str, entry: Entry, prefix: str) -> bool:
    """Whether a root-level tensor tells the loader what kind of model this is."""
    if key in _ROOT_KEYS or key.startswith("edm_") or _BESIDE.match(key):
        return True
    return prefix != "" and "." not in key and entry.numel <= _ROOT_NUMEL


def _refuse_quantized(file: FileHeader, entries: Mapping[str, Entry]) -> None:
    found = next((k for k in entries if k.endswith(_QUANTIZED_ENDINGS)), None)
    if found is None and "_quantization_metadata" in file.metadata:
        found = "_quantization_metadata"
    for key, entry in entries.items():
        if key.endswith(".weight") and len(entry.shape) > 1 and not entry.dtype.is_floating_point:
            found = found or key
    if found is not None:
        refuse(
            file.path,
            found,
            "a model that is quantized already (scaled fp8 or another native format)",
            "plain float weights",
            "load it in ComfyUI and use VQ Quantize Model, or take the original",
        )


def _refuse_fused(file: FileHeader, entries: Mapping[str, Entry]) -> None:
    for keys in _FUSED_BY_HOST:
        if all(key in entries for key in keys):
            refuse(
                file.path,
                keys[0],
                "a transformer in the layout of diffusers, of which ComfyUI joins weights",
                "the original layout",
                "load it in ComfyUI and use VQ Quantize Model, or take the original file",
            )


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        expected = "the file that was opened before"
        refuse(path, "cannot be read", str(error.strerror), expected, "is it still there?")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with _opened(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
