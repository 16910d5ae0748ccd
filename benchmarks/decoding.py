"""How fast each implementation decodes, by shape."""

from __future__ import annotations

import torch

from benchmarks import layers, q4_k
from benchmarks.kernel_settings import Settings, guarded
from benchmarks.layers import Missing
from benchmarks.timing import markdown
from comfy_vq.kernels import dispatch


def decode_table(settings: Settings, bandwidth: float) -> str:
    """Every implementation that runs here, by shape, and the reason of those that do not."""
    by = settings.width_scale
    shapes = sorted({(n, k) for _, n, k in settings.linears()}, key=lambda s: s[0] * s[1])
    usual: list[tuple[int, ...]] = [*shapes, (1280 // by, 1280 // by, 3, 3)]
    large = [(1280 // by, 5120 // by), (10240 // by, 1280 // by)]
    cases = [("decode_additive", settings.books, shape) for shape in usual]
    cases += [("decode_additive", m, (1280 // by, 5120 // by)) for m in (1, 2, 4, 6)]
    cases += [("decode_trellis", settings.trellis_bits, shape) for shape in usual]
    cases += [("decode_trellis", bits, large[0]) for bits in (2, 4, 5)]
    cases += [("decode_additive_int8", settings.books, shape) for shape in large]
    cases += [("decode_trellis_int8", settings.trellis_bits, shape) for shape in large]
    cases += [("decode_int8", 8, shape) for shape in large]
    rows, refused = [], {}
    for operation, books, shape in cases:
        codec, of_bytes = layers.codec_of(operation)
        coded = settings.coded(shape, books, codec)
        block = 0 if of_bytes else getattr(getattr(coded.spec, "rotation", None), "block", 0)
        window, dtype = getattr(coded.spec, "window", 0), torch.int8 if of_bytes else settings.dtype
        case = dispatch.Case(settings.device, dtype, books % 8, block, window=window)
        for kernel, why_not in layers.implementations(operation, case):
            if why_not is not None:
                refused[operation, kernel.name] = why_not.reason
                continue
            call, moved = layers.decode_call(operation, coded, settings.dtype)
            with layers.only(operation, kernel):
                seconds = guarded(lambda c=call: settings.timer.seconds(c))
            name = f"{operation} {f'M={books}' if codec == 'additive' else f'{books} bits'}"
            rows.append([name, "x".join(map(str, shape)), kernel.name])
            rows[-1] += _rates(coded.numel, moved, seconds, bandwidth)
    for shape in large:
        blocks = q4_k.random_blocks(shape[0] * shape[1], settings.device)
        call = lambda q=blocks, s=shape: q4_k_weight(q, s, settings.dtype)
        seconds = guarded(lambda c=call: settings.timer.seconds(c))
        weights = shape[0] * shape[1]
        moved = blocks.nbytes + weights * settings.dtype.itemsize
        rows.append(["Q4_K", "x".join(map(str, shape)), "eager"])
        rows[-1] += _rates(weights, moved, seconds, bandwidth)
    head = ["operation", "weight", "implementation", "Gweights/s", "GB/s", "of copy"]
    notes = [f"{op} does not run {name}: {why}" for (op, name), why in refused.items()]
    return "\n".join([markdown(head, rows), *(f"\n{note}" for note in notes)])


def q4_k_weight(blocks: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    # In float16 and cast after: what ComfyUI-GGUF does unless told otherwise.
    return q4_k.dequantize(blocks, torch.float16).to(dtype).view(shape)


def _rates(weights: int, moved: int, seconds: float | Missing, bandwidth: float) -> list[str]:
    if isinstance(seconds, Missing):
        return [f"failed: {seconds.reason}", "-", "-"]
    share = f"{moved / seconds / bandwidth:.0%}"
    return [f"{weights / seconds / 1e9:.2f}", f"{moved / seconds / 1e9:.1f}", share]
