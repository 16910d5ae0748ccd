"""Writes a small VQ checkpoint, shows its bytes, and decodes it without comfy-vq or torch.

    python -m docs.format_example

The second half reads nothing but the bytes: it is what docs/format.md says, as a program.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import tempfile
from pathlib import Path

import torch

from comfy_vq import checkpoint, codecs
from comfy_vq.codecs import Rotation
from comfy_vq.model import Source, VQModel


def make(path: Path) -> None:
    """Layers of 2 x 128 weights at 2 bits, of 2 x 64 as a trellis and of 2 x 4 in int8, and more."""
    weight = ((torch.arange(256) * 37 % 101 - 50) / 64).reshape(2, 128).half()
    layers = {
        "proj": codecs.encode(weight, 2, rotation=Rotation(64, 0), effort="fast"),
        "ff": codecs.encode(weight[:, :64], 2, codec="trellis", effort="fast"),
        "out": codecs.encode(weight[:, :4], 8, codec="int8"),
    }
    dense = {"proj.bias": torch.tensor([0.5, -0.25])}
    source = Source("tiny.safetensors", None, "", {}, {"v_pred": torch.zeros(1)})
    checkpoint.save(path, VQModel(layers, dense, source))


def show(content: bytes) -> None:
    """Length, index, and the first bytes of every tensor."""
    (length,) = struct.unpack("<Q", content[:8])
    index = json.loads(content[8 : 8 + length])
    print(f"{0:6}  {content[:8].hex(' ')}   length of the index: {length}")
    print(f"{8:6}  {content[8:16].hex(' ')} ...")
    for key, text in index.pop("__metadata__").items():
        print(f"        {key} = {text}")
    for name, entry in index.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        more = " ..." if end - start > 8 else ""
        head = content[start : min(end, start + 8)].hex(" ") + more
        print(f"{start:6}  {head:<28} {name} {entry['dtype']} {entry['shape']}")


def signs(seed: int, width: int) -> list[int]:
    stream = hashlib.shake_128(seed.to_bytes(8, "little")).digest((width + 7) // 8)
    return [-1 if stream[i // 8] >> (i % 8) & 1 else 1 for i in range(width)]


def decode(content: bytes, layer: str) -> list[list[float]]:
    """The rows of a linear layer's weight."""
    (length,) = struct.unpack("<Q", content[:8])
    index = json.loads(content[8 : 8 + length])
    metadata, data = index["__metadata__"], content[8 + length :]

    def tensor(name: str, code: str) -> tuple:
        begin, end = index[name]["data_offsets"]
        return struct.unpack(f"<{(end - begin) // struct.calcsize(code)}{code}", data[begin:end])

    codec_id, (_rows, width), _dtype, set_name = json.loads(metadata["vq.layers"])[layer]
    codec = json.loads(metadata["vq.codecs"])[codec_id]
    scales = tensor(f"vq.{layer}.scales", "e")
    if codec["name"] == "int8":
        codes = tensor(f"vq.{layer}.codes", "b")
        return [[s * c / 128 for c in codes[n * width :][:width]] for n, s in enumerate(scales)]

    codes = tensor(f"vq.{layer}.codes", "B")
    codebooks = tensor(f"vq.codebooks.{set_name}", "B")
    step, offset = tensor(f"vq.codebooks.{set_name}.grid", "f")
    block, seed = codec["rotation"]["block"], codec["rotation"]["seed"]
    flips = signs(seed, width)

    def window_entry(row: int, column: int) -> int:
        bits = codec["bits"]
        stream = codes[row * width * bits // 8 :][: width * bits // 8]
        places = [(column * bits + n) % (width * bits) for n in range(codec["window"])]
        chosen = [stream[place // 8] >> place % 8 & 1 for place in places]
        return codebooks[sum(bit << n for n, bit in enumerate(chosen))]

    def entry_sum(row: int, column: int) -> int:
        books, entries, group = codec["codebooks"], codec["entries"], codec["group"]
        at = (row * (width // group) + column // group) * books
        chosen = codes[at : at + books]
        return sum(
            codebooks[(m * entries + code) * group + column % group]
            for m, code in enumerate(chosen)
        )

    number = window_entry if codec["name"] == "trellis" else entry_sum
    weight = []
    for row, scale in enumerate(scales):
        turned = [number(row, column) - offset for column in range(width)]
        factor = scale * step * block**-0.5
        weight.append(
            [
                flips[j]
                * factor
                * sum(
                    turned[j - j % block + i] * (-1) ** ((i & j % block).bit_count())
                    for i in range(block)
                )
                for j in range(width)
            ]
        )
    return weight


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-VQ2.safetensors"
        make(path)
        content = path.read_bytes()
        loaded = {name: w.decode() for name, w in checkpoint.load(path).layers.items()}
    show(content)
    for name, expected in loaded.items():
        plain = torch.tensor(decode(content, name))
        print(f"\n{name}: row 0 begins {[round(x, 4) for x in plain[0, :4].tolist()]}")
        difference = (plain - expected).abs().max().item()
        print(f"{name}: largest difference from comfy-vq's own decoding: {difference:.0e}")
        if difference > 1e-6:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
